{{/*
Is this text an address that a node can hold? Each template writes what is wrong with it, with a
remedy, or nothing. The daemon decides alike (app/havip/settings/values.py); here it is decided
before an object is made.
*/}}

{{/*
The numbers of an address, joined by commas: 4 octets, 8 groups, or nothing.
*/}}
{{- define "havip.addressNumbers" -}}
{{- if regexMatch "^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\\.|$)){4}$" . -}}
{{- if not (hasSuffix "." .) }}{{ splitList "." . | join "," }}{{ end -}}
{{- else if regexMatch "^[0-9a-fA-F:]+$" . -}}
{{- $halves := splitList "::" . -}}
{{- $groups := list -}}
{{- range $number, $half := $halves -}}
  {{- $side := list -}}
  {{- if $half -}}{{- $side = splitList ":" $half -}}{{- end -}}
  {{- if and (eq $number 1) (eq (len $halves) 2) -}}
    {{- range until (max 0 (sub 8 (add (len $groups) (len $side))) | int) -}}
      {{- $groups = append $groups "0" -}}
    {{- end -}}
  {{- end -}}
  {{- $groups = concat $groups $side -}}
{{- end -}}
{{- $given := without (splitList ":" .) "" -}}
{{- $isWhole := or (eq (len $halves) 1) (and (eq (len $halves) 2) (lt (len $given) 8)) -}}
{{- if and $isWhole (eq (len $groups) 8) (regexMatch "^([0-9a-fA-F]{1,4},){7}[0-9a-fA-F]{1,4}$" (join "," $groups)) -}}
{{- $numbers := list -}}
{{- range $groups -}}
  {{- $numbers = append $numbers (int64 (printf "0x%s" .)) -}}
{{- end -}}
{{- join "," $numbers -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
One spelling of an address, with or without a prefix length, by which it is compared.
*/}}
{{- define "havip.sameAddress" -}}
{{- $address := regexReplaceAll "/.*$" (toString .) "" -}}
{{- include "havip.addressNumbers" $address | default $address -}}
{{- end -}}

{{/*
Problem of one VIP, as text with prefix length.
*/}}
{{- define "havip.vipProblem" -}}
{{- $address := regexReplaceAll "/.*$" . "" -}}
{{- $length := regexFind "/.*$" . | trimPrefix "/" -}}
{{- $numbers := include "havip.addressNumbers" $address -}}
{{- $isIpv6 := contains ":" $address -}}
{{- $bits := ternary 128 32 $isIpv6 -}}
{{- if not $numbers -}}
is not an IP address; write it like {{ ternary "2001:db8::10" "192.0.2.10" $isIpv6 -}}
{{- else if not (and (regexMatch "^[0-9]{1,3}$" $length) (ge (atoi $length) 1) (le (atoi $length) $bits)) -}}
has no prefix length from 1 to {{ $bits }}; write it like {{ $address }}/{{ ternary 64 24 $isIpv6 -}}
{{- else -}}
{{- include "havip.reservedProblem" (dict "numbers" (splitList "," $numbers) "length" (atoi $length) "isIpv6" $isIpv6) -}}
{{- end -}}
{{- end -}}

{{/*
What an address of these numbers is, if it is no host's.
*/}}
{{- define "havip.reservedKind" -}}
{{- $isIpv6 := eq (len .) 8 -}}
{{- $first := int64 (first .) -}}
{{- $text := join "," . -}}
{{- if has $text (list "0,0,0,0" "0,0,0,0,0,0,0,0") -}}the unspecified address
{{- else if and (not $isIpv6) (eq $first 0) -}}in 0.0.0.0/8 (RFC 1122 §3.2.1.3)
{{- else if and (not $isIpv6) (ge $first 240) (ne $text "255,255,255,255") -}}in 240.0.0.0/4 (RFC 1112 §4)
{{- else if hasPrefix "0,0,0,0,0,65535," $text -}}an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2)
{{- else if or (and (not $isIpv6) (eq $first 127)) (eq $text "0,0,0,0,0,0,0,1") -}}a loopback address
{{- else if or (and (not $isIpv6) (ge $first 224) (lt $first 240)) (and $isIpv6 (ge $first 65280)) -}}a multicast address
{{- else if eq $text "255,255,255,255" -}}the broadcast address
{{- end -}}
{{- end -}}

{{- define "havip.reservedProblem" -}}
{{- $width := ternary 16 8 .isIpv6 -}}
{{- $allZero := true -}}
{{- $allOne := true -}}
{{- range $number, $text := .numbers -}}
  {{- $hostBits := sub (mul $width (add $number 1)) $.length | max 0 | min $width -}}
  {{- $size := index (list 1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536) $hostBits -}}
  {{- $host := mod (int64 $text) $size -}}
  {{- if ne (int64 $host) 0 -}}{{- $allZero = false -}}{{- end -}}
  {{- if ne (int64 $host) (sub $size 1 | int64) -}}{{- $allOne = false -}}{{- end -}}
{{- end -}}
{{- $kind := include "havip.reservedKind" .numbers -}}
{{- if $kind -}}
is {{ $kind }}, which no node can hold; choose a unicast address
{{- else if lt .length (ternary 127 31 .isIpv6) -}}
{{- if $allZero -}}
is the {{ ternary "subnet-router anycast" "network" .isIpv6 }} address of its network; choose another address of that network
{{- else if and $allOne (not .isIpv6) -}}
is the broadcast address of its network; choose another address of that network
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Problem of a URL to probe: `url` and the `schemes` that it may have.
*/}}
{{- define "havip.urlProblem" -}}
{{- $example := ternary "http://127.0.0.1:10254/healthz" "https://127.0.0.1:6443" (has "tcp" .schemes) -}}
{{- $scheme := regexFind "^[A-Za-z0-9+.-]*://" .url | trimSuffix "://" -}}
{{- $rest := regexReplaceAll "^[A-Za-z0-9+.-]*://" .url "" -}}
{{- $authority := regexFind "^[^/?#]*" $rest -}}
{{- $port := regexFind ":[^:\\]]*$" $authority | trimPrefix ":" -}}
{{- $host := regexReplaceAll ":[^:\\]]*$" $authority "" -}}
{{- if regexMatch "[\\s[:cntrl:]]" .url -}}
contains a space or a control character; write it like {{ $example }}
{{- else if contains "@" $authority -}}
carries a user or a password; leave them out
{{- else if not (has (lower $scheme) .schemes) -}}
has none of the schemes {{ join ", " .schemes }}; write it like {{ $example }}
{{- else if not (or (regexMatch "^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$" $host) (and (regexMatch "^\\[.*:.*\\]$" $host) (include "havip.addressNumbers" (trimAll "[]" $host)))) -}}
has no host; write it like {{ $example }}
{{- else if and (contains ":" (regexReplaceAll "\\[.*\\]" $authority "")) (not (and (regexMatch "^[0-9]{1,5}$" $port) (ge (atoi $port) 1) (le (atoi $port) 65535))) -}}
has no port from 1 to 65535; write it like {{ $example }}
{{- else if and (eq (lower $scheme) "tcp") (or (not $port) (ne $rest $authority)) -}}
is not tcp://host:port; write it like tcp://127.0.0.1:8080
{{- end -}}
{{- end -}}

{{/*
A quantity of Kubernetes, such as 128Mi, as a number; 0 for what is none.
*/}}
{{- define "havip.quantity" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[a-zA-Z]+$" $text -}}
{{- $factor := get (dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0) $unit | default 1.0 -}}
{{- mulf (float64 (trimSuffix $unit $text)) $factor -}}
{{- end -}}
