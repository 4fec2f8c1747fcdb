{{/*
HAProxy beside havip: `loadBalancer.enabled`.

havip writes what HAProxy starts with, and that very HAProxy validates it, before either of them runs.
Nothing probes HAProxy: one that dies is started again by the kubelet and heard of by havip at once, and a
probe would be a connection to an API server each time.
*/}}

{{/*
Whether a list of API servers is followed, and kept on the node: "true", or nothing.
*/}}
{{- define "havip.followsBackends" -}}
{{- if and .Values.loadBalancer.enabled (eq (include "havip.isAuto" .Values.loadBalancerBackends) "true") }}true{{ end -}}
{{- end -}}

{{/*
Whether something has to outlast the pod: "true", or nothing.
*/}}
{{- define "havip.keepsState" -}}
{{- if or (include "havip.discoversPeers" .) (include "havip.followsBackends" .) }}true{{ end -}}
{{- end -}}

{{- define "havip.balancerImage" -}}
{{- with .Values.loadBalancer.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end -}}
{{- end -}}
{{- end -}}

{{/*
Where HAProxy listens: at the VIPs, or at every address of their families. A running one never moves.
*/}}
{{- define "havip.balancerBinds" -}}
{{- $binds := list -}}
{{- range $_, $router := include "havip.routers" . | fromYaml -}}
{{- range include "havip.vips" $router | fromYamlArray -}}
{{- $binds = append $binds (regexReplaceAll "/.*" . "") -}}
{{- end -}}
{{- end -}}
{{- if eq .loadBalancerBind "all" -}}
{{- range $index, $vip := $binds -}}
{{- $binds = append (without $binds $vip) (contains ":" $vip | ternary "::" "0.0.0.0") -}}
{{- end -}}
{{- end -}}
{{- uniq $binds | sortAlpha | toJson -}}
{{- end -}}

{{/*
Where both find the configuration and the socket.
*/}}
{{- define "havip.balancerDirectory" -}}/run/havip-haproxy{{- end -}}

{{/*
The container that runs HAProxy, or validates what it starts with.
*/}}
{{- define "havip.balancerContainer" -}}
{{- $values := .root.Values -}}
{{- $isPrivileged := lt (int $values.loadBalancerPort) 1024 -}}
name: {{ .name }}
image: {{ include "havip.balancerImage" .root | quote }}
imagePullPolicy: {{ $values.loadBalancer.image.pullPolicy }}
command: [haproxy, {{ .flags }}, -f, {{ include "havip.balancerDirectory" . }}/haproxy.cfg]
resources:
  {{- toYaml $values.loadBalancer.resources | nindent 2 }}
securityContext:
  runAsUser: {{ $isPrivileged | ternary 0 65534 }}
  {{- /* Its socket is this group's, and so is havip. */}}
  runAsGroup: 0
  runAsNonRoot: {{ not $isPrivileged }}
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    {{- if $isPrivileged }}
    add: [NET_BIND_SERVICE]
    {{- end }}
volumeMounts:
  - name: haproxy
    mountPath: {{ include "havip.balancerDirectory" . }}
{{- end -}}

{{/*
What the values say of it that the daemon would refuse, or that no pod can have.
*/}}
{{- define "havip.balancerProblems" -}}
{{- $settings := . -}}
{{- with $settings.loadBalancerRedirectPort }}
{{- if not $settings.loadBalancer }}
loadBalancerRedirectPort {{ int . }}: leads to the load balancer, and there is none; set loadBalancer.enabled: true, or leave it out
{{- else if eq (int .) (int $settings.loadBalancerPort) }}
loadBalancerRedirectPort {{ int . }}: is the balancer's own port (loadBalancerPort); leave it out
{{- end }}
{{- end }}
{{- if $settings.loadBalancer }}
{{- include "havip.backendsProblems" $settings }}
{{- with $settings.loadBalancerCheckTimeout }}
{{- if ge (float64 .) (float64 $settings.loadBalancerCheckInterval) }}
loadBalancerCheckTimeout {{ . }}: is not less than loadBalancerCheckInterval ({{ $settings.loadBalancerCheckInterval }}), so that probes would overlap; set less than {{ $settings.loadBalancerCheckInterval }}, or leave it out
{{- end }}
{{- end }}
{{- include "havip.statusProblems" (dict "name" "loadBalancerCheckExpectedStatus" "value" $settings.loadBalancerCheckExpectedStatus) }}
{{- with $settings.loadBalancerCheckHost }}
{{- if not (regexMatch "^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$" .) }}
loadBalancerCheckHost {{ . }}: is no host name; write it like kubernetes or api.example.org
{{- else if and $settings.loadBalancerCaFile (include "havip.addressNumbers" .) }}
loadBalancerCheckHost {{ . }}: is an address, and HAProxy verifies certificates for DNS names alone (loadBalancerCaFile); write a name that they have, such as kubernetes
{{- end }}
{{- end }}
{{- if eq (toString (int $settings.loadBalancerPort)) (regexFind "[0-9]+$" $settings.listen) }}
loadBalancerPort {{ int $settings.loadBalancerPort }}: is the port of listen ({{ $settings.listen }}); choose another one, such as 8443
{{- end }}
{{- end }}
{{- end -}}

{{- define "havip.backendsProblems" -}}
{{- $given := .loadBalancerBackends -}}
{{- if not (include "havip.isAuto" $given) -}}
{{- $names := dict -}}
{{- $places := dict -}}
{{- $vips := list -}}
{{- range include "havip.routers" . | fromYaml }}
{{- range include "havip.vips" . | fromYamlArray }}{{ $vips = append $vips (include "havip.sameAddress" .) }}{{ end }}
{{- end }}
{{- $own := int .loadBalancerPort -}}
{{- $binds := include "havip.balancerBinds" . | fromJsonArray -}}
{{- $count := 0 -}}
{{- range $text := kindIs "slice" $given | ternary $given (splitList "," (toString (default "" $given))) }}
{{- $text = trim (toString $text) }}
{{- if $text }}
{{- $count = add1 $count }}
{{- $words := regexSplit "\\s+" $text -1 }}
{{- $place := last $words }}
{{- $host := regexReplaceAll ":[0-9]+$" $place "" }}
{{- $port := regexFind "[0-9]+$" $place }}
{{- $isBracketed := regexMatch "^\\[.*\\]$" $host }}
{{- $address := trimAll "[]" $host }}
{{- $isWrong := or (gt (len $words) 2) (not (regexMatch ":[0-9]{1,5}$" $place)) (not (include "havip.addressNumbers" $address)) (ne $isBracketed (contains ":" $address)) }}
{{- if not $isWrong }}{{ $isWrong = or (lt (atoi $port) 1) (gt (atoi $port) 65535) }}{{ end }}
{{- if and (eq (len $words) 2) (not (regexMatch "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$" (first $words))) }}{{ $isWrong = true }}{{ end }}
{{- if $isWrong }}
loadBalancerBackends {{ $text }}: is no backend: a name of letters, digits, dots, hyphens and underscores, then an IP address with a port from 1 to 65535; write it like cp-1 192.0.2.11:6443 or cp-1 [2001:db8::11]:6443
{{- else }}
{{- $same := printf "%s port %d" (include "havip.sameAddress" $address) (atoi $port) }}
{{- $kind := include "havip.reservedKind" (include "havip.sameAddress" $address | splitList ",") }}
{{- if has $kind (list "the unspecified address" "a multicast address" "the broadcast address" "an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2)") }}
loadBalancerBackends {{ $text }}: is at no unicast address; write the API server's own address, with its port
{{- end }}
{{- $isLinkLocal := false }}
{{- if contains ":" $address }}
{{- $first := include "havip.addressNumbers" $address | splitList "," | first | int64 }}
{{- $isLinkLocal = and (ge $first 65152) (lt $first 65216) }}
{{- end }}
{{- if $isLinkLocal }}
loadBalancerBackends {{ $text }}: is at a link-local address, which leads nowhere without an interface; write another address of the API server, with its port
{{- else if has (include "havip.sameAddress" $address) $vips }}
loadBalancerBackends {{ $text }}: is at a VIP, which nobody has before a backend is healthy; list the API servers' own addresses
{{- end }}
{{- if and (eq $kind "a loopback address") (eq (atoi $port) $own) (has (contains ":" $address | ternary "::" "0.0.0.0") $binds) }}
loadBalancerBackends {{ $text }}: is where the balancer itself listens (loadBalancerPort {{ $own }}, loadBalancerBind all); list the API servers' own addresses and port
{{- end }}
{{- if hasKey $places $same }}
loadBalancerBackends {{ $place }}: is given twice; name each API server once
{{- end }}
{{- if and (eq (len $words) 2) (hasKey $names (first $words)) }}
loadBalancerBackends {{ first $words }}: is given twice; give each backend its own name
{{- end }}
{{- $_ := set $places $same true }}
{{- $_ := set $names (first $words) true }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $count }}
loadBalancerBackends {{ $given }}: names no backend; write auto, or a list like cp-1 192.0.2.11:6443
{{- else if gt $count 64 }}
loadBalancerBackends: has more than 64 entries, each of which each node would probe; list fewer
{{- end }}
{{- end -}}
{{- end -}}
