{{/*
Authentication. A key or password that is made at random has to be the same at each render, or the
nodes would not understand each other: it is kept in the release's Secret, and where the chart does
not see the cluster, none is made.
*/}}

{{- define "havip.authDirectory" -}}/var/run/secrets/havip{{- end -}}

{{/*
The release's own Secret as it is, or an empty mapping.
*/}}
{{- define "havip.ownSecret" -}}
{{- lookup "v1" "Secret" .Release.Namespace (include "havip.fullname" .) | toYaml -}}
{{- end -}}

{{- define "havip.secretName" -}}
{{- default (include "havip.fullname" .) .Values.authExistingSecret -}}
{{- end -}}

{{/*
none, password or hmac.
*/}}
{{- define "havip.authMethod" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- $previous := include "havip.previousConfig" . | fromYaml -}}
{{- $isWithoutHmac := and (eq (int $previous.vrrpVersion) 3) (not $previous.authHmacKeysFile) -}}
{{- if ne .Values.authMethod "auto" -}}
{{- .Values.authMethod -}}
{{- else if eq (int $settings.vrrpVersion) 2 -}}
password
{{- else if or .Values.authExistingSecret (include "havip.hasAllHmacKeys" .) -}}
hmac
{{- else if and (include "havip.seesCluster" .) (not $isWithoutHmac) -}}
hmac
{{- else -}}
none
{{- end -}}
{{- end -}}

{{/*
What the daemon is told of it.
*/}}
{{- define "havip.authSettings" -}}
{{- $directory := include "havip.authDirectory" . -}}
{{- $method := include "havip.authMethod" . -}}
{{- if ne $method "none" }}
authRotationDelay: {{ .Values.authRotationDelay }}
{{- end }}
{{- if eq $method "password" }}
authPasswordFile: {{ $directory }}/password
{{- else if eq $method "hmac" }}
authHmacKeysFile: {{ $directory }}/hmac-keys
authHmacMode: {{ .Values.authHmacMode }}
authHmacReplay: {{ .Values.authHmacReplay }}
{{- with .Values.authHmacTimeWindow }}
authHmacTimeWindow: {{ . }}
{{- end }}
{{- if and .Values.authExistingSecret .Values.authHmacActiveKey }}
authHmacActiveKey: {{ int .Values.authHmacActiveKey }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Password of version 2. That of the former chart followed from the names of release and namespace;
without a cluster to look it up, beside that chart's values, it is the same again.
*/}}
{{- define "havip.password" -}}
{{- $own := include "havip.ownSecret" . | fromYaml -}}
{{- $given := default .Values.authPassword (default dict .Values.keepalived).authPassword -}}
{{- if $given -}}
{{- $given -}}
{{- else if (default dict $own.data).password -}}
{{- $own.data.password | b64dec -}}
{{- else if and (include "havip.former" .) (not (include "havip.seesCluster" .)) -}}
{{- printf "%s:%s" .Release.Name .Release.Namespace | sha256sum | trunc 8 -}}
{{- else if include "havip.seesCluster" . -}}
{{- randAlphaNum 8 -}}
{{- end -}}
{{- end -}}

{{/*
HMAC keys by id, as the values wish them: digits, or empty for random ones.
*/}}
{{- define "havip.wantedHmacKeys" -}}
{{- .Values.authHmacKeys | default (dict "1" "") | toYaml -}}
{{- end -}}

{{- define "havip.hasAllHmacKeys" -}}
{{- if .Values.authHmacKeys -}}
{{- $missing := list -}}
{{- range $id, $key := .Values.authHmacKeys -}}
{{- if not $key -}}{{- $missing = append $missing $id -}}{{- end -}}
{{- end -}}
{{- if not $missing }}true{{ end -}}
{{- end -}}
{{- end -}}

{{- define "havip.hmacActiveKey" -}}
{{- $ids := include "havip.wantedHmacKeys" . | fromYaml | keys -}}
{{- if .Values.authHmacActiveKey -}}
{{- int .Values.authHmacActiveKey -}}
{{- else if eq (len $ids) 1 -}}
{{- first $ids -}}
{{- end -}}
{{- end -}}

{{/*
The keys of a file of keys, by id; what is a line of it is docs/configuration.md's to say.
*/}}
{{- define "havip.keysOfFile" -}}
{{- $keys := dict -}}
{{- range splitList "\n" . -}}
{{- $line := regexFind "^\\s*[0-9]+\\s*:\\s*['\"]?[0-9a-fA-F]+" . -}}
{{- if $line -}}
{{- $_ := set $keys (regexFind "[0-9]+" $line) (regexFind "[0-9a-fA-F]+$" $line) -}}
{{- end -}}
{{- end -}}
{{- toYaml $keys -}}
{{- end -}}

{{- define "havip.ownHmacKeysFile" -}}
{{- $own := include "havip.ownSecret" . | fromYaml -}}
{{- get (default dict $own.data) "hmac-keys" | b64dec -}}
{{- end -}}

{{/*
The file of HMAC keys of the release's own Secret. Which of them signs, stands in it too, so that the
nodes learn both at once.
*/}}
{{- define "havip.hmacKeysFile" -}}
{{- $kept := include "havip.ownHmacKeysFile" . | include "havip.keysOfFile" | fromYaml -}}
active: {{ include "havip.hmacActiveKey" . }}
{{- range $id, $given := include "havip.wantedHmacKeys" . | fromYaml }}
{{ $id }}: "{{ $given | default (get $kept $id) | default (randBytes 32 | b64dec | printf "%x") }}"
{{- end }}
{{- end -}}

{{/*
What is wrong with it, a line for each.
*/}}
{{- define "havip.authProblems" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- $method := include "havip.authMethod" . -}}
{{- $version := int $settings.vrrpVersion -}}
{{- $secret := .Values.authExistingSecret -}}
{{- $password := default .Values.authPassword (default dict .Values.keepalived).authPassword -}}
{{- if and $secret $password }}
authExistingSecret {{ $secret }}: is given beside a password; leave one of them out
{{- end }}
{{- if and $secret .Values.authHmacKeys }}
authExistingSecret {{ $secret }}: is given beside authHmacKeys; leave one of them out
{{- end }}
{{- if and $password (ne $method "password") }}
authPassword ***: {{ if eq $version 3 }}VRRPv3 has no passwords (RFC 9568 §9){{ else }}is of no use with authMethod {{ $method }}{{ end }}; leave it out, or set vrrpVersion: 2 and authMethod: password
{{- end }}
{{- /* Not by the schema: it would show what does not match. */}}
{{- if not (regexMatch "^[ -~]*$" (default "" $password)) }}
authPassword ***: has characters that are not printable ASCII, and VRRPv2 carries 8 bytes; choose others
{{- end }}
{{- if and .Values.authHmacKeys (ne $method "hmac") }}
authHmacKeys ***: are of no use with authMethod {{ $method }}; leave them out, or set authMethod: hmac
{{- end }}
{{- if and (eq $method "password") (eq $version 3) }}
authMethod password: VRRPv3 has no passwords (RFC 9568 §9); set hmac, or vrrpVersion: 2
{{- end }}
{{- if and (eq $method "hmac") (include "havip.former" .) }}
authMethod hmac: the pods of keepalived-ingress-vip do not know it; leave it out, or write the block `keepalived` as flat values
{{- end }}
{{- range $index, $router := $settings.virtualRouters }}
{{- if and $router.vrrpVersion (ne (int $router.vrrpVersion) $version) }}
virtualRouters[{{ $index }}].vrrpVersion {{ $router.vrrpVersion }}: the routers of a release have one authentication, and so one version; make it a release of its own
{{- end }}
{{- end }}
{{- if and (eq $method "password") (eq $version 2) (not $secret) (not $password) (not (include "havip.former" .)) (not (include "havip.seesCluster" .)) }}
authPassword: there is none, and the chart sees no cluster to keep a random one in, so that each render would make another; set authPassword, authExistingSecret, or authMethod: none
{{- end }}
{{- if eq $method "hmac" -}}
{{- include "havip.hmacProblems" . }}
{{- end -}}
{{- include "havip.hmacRolloutProblems" . }}
{{- include "havip.existingSecretProblems" . }}
{{- include "havip.otherSecretProblems" . }}
{{- end -}}

{{- define "havip.hmacProblems" -}}
{{- if not .Values.authExistingSecret }}
{{- $wanted := include "havip.wantedHmacKeys" . | fromYaml }}
{{- $file := include "havip.ownHmacKeysFile" . }}
{{- $kept := include "havip.keysOfFile" $file | fromYaml }}
{{- $active := include "havip.hmacActiveKey" . }}
{{- $signing := regexFind "(?m)^active: [0-9]+$" $file | trimPrefix "active: " }}
{{- range $id, $key := $wanted }}
{{- if not (and (regexMatch "^[1-9][0-9]{0,2}$" $id) (le (int $id) 255)) }}
authHmacKeys.{{ $id }}: is no key id from 1 to 255; number the keys from 1
{{- end }}
{{- if and $key (not (regexMatch "^([0-9a-fA-F]{2}){32,64}$" $key)) }}
authHmacKeys.{{ $id }} ***: has {{ len $key }} characters, and 64 to 128 hexadecimal digits in pairs are needed; make one with: openssl rand -hex 32
{{- end }}
{{- if and $key (get $kept $id) (ne (lower $key) (lower (get $kept $id))) }}
authHmacKeys.{{ $id }} ***: the nodes use another key of that id, and could not tell the two apart; give the new key an id of its own
{{- end }}
{{- end }}
{{- if and (not (include "havip.seesCluster" .)) (not (include "havip.hasAllHmacKeys" .)) }}
authMethod hmac: the chart sees no cluster to keep a random key in, so that each render would make another; set authExistingSecret, or write each key under authHmacKeys
{{- end }}
{{- if not $active }}
authHmacActiveKey: there are several keys ({{ keys $wanted | sortAlpha | join ", " }}), and none is said to sign; name the one that signs now
{{- else if not (hasKey $wanted $active) }}
authHmacActiveKey {{ $active }}: there is no key of that id, only {{ keys $wanted | sortAlpha | join ", " }}; name one of them, or add the key
{{- end }}
{{- if and $signing (not (hasKey $wanted $signing)) }}
authHmacKeys: the nodes sign with key {{ $signing }}, which is not among them; keep it as authHmacKeys.{{ $signing }} while another one is activated, and remove it ten minutes later
{{- end }}
{{- end }}
{{- end -}}

{{/*
From unsigned to signed and back goes by steps in which old and new nodes understand each other.
*/}}
{{- define "havip.hmacRolloutProblems" -}}
{{- $steps := list "none" "receive-only" "permissive" "enforce" -}}
{{- $previous := include "havip.previousConfig" . | fromYaml -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- if and $previous (eq (int $previous.vrrpVersion) (int $settings.vrrpVersion)) -}}
{{- $was := ternary $previous.authHmacMode "none" (hasKey $previous "authHmacKeysFile") -}}
{{- $is := ternary .Values.authHmacMode "none" (eq (include "havip.authMethod" .) "hmac") -}}
{{- $from := 0 -}}
{{- $to := 0 -}}
{{- range $number, $step := $steps -}}
{{- if eq $step $was -}}{{- $from = $number -}}{{- end -}}
{{- if eq $step $is -}}{{- $to = $number -}}{{- end -}}
{{- end -}}
{{- if gt (sub (max $from $to) (min $from $to)) 1 }}
{{- $next := index $steps (ternary (add $from 1) (sub $from 1) (gt $to $from) | int) }}
authHmacMode {{ $is }}: the nodes are at {{ $was }}, change one after the other, and would not understand each other meanwhile; set {{ if eq $next "none" }}authMethod: none{{ else }}authMethod: hmac and authHmacMode: {{ $next }}{{ end }}, wait two minutes, then go on
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "havip.existingSecretProblems" -}}
{{- with .Values.authExistingSecret -}}
{{- $method := include "havip.authMethod" $ -}}
{{- $wanted := get (dict "hmac" "hmac-keys" "password" "password") $method -}}
{{- $found := lookup "v1" "Secret" $.Release.Namespace . -}}
{{- if not $wanted }}
authExistingSecret {{ . }}: is of no use with authMethod {{ $method }}; leave it out
{{- else if and $found (not (hasKey (default dict $found.data) $wanted)) }}
authExistingSecret {{ . }}: has no key {{ $wanted }} (it has {{ keys (default dict $found.data) | sortAlpha | join ", " | default "none" }}); add it, or name another Secret
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
What the pods that there are authenticate with, `method` and `value`, and the Secret that it is in,
`secret`; or an empty mapping.
*/}}
{{- define "havip.presentAuth" -}}
{{- $fullname := include "havip.fullname" . -}}
{{- $previous := include "havip.previousConfig" . | fromYaml -}}
{{- $name := ternary $fullname "" (ne (include "havip.ownSecret" .) "{}") -}}
{{- range $kind := list "Deployment" "DaemonSet" -}}
{{- $before := lookup "apps/v1" $kind $.Release.Namespace $fullname -}}
{{- range dig "spec" "template" "spec" "volumes" list $before -}}
{{- if eq .name "auth" -}}{{- $name = .secret.secretName -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $data := dict -}}
{{- if $name -}}{{- $data = (lookup "v1" "Secret" .Release.Namespace $name).data | default dict -}}{{- end -}}
{{- if $previous.authHmacKeysFile -}}
{{- $key := include "havip.signingKey" (dict "file" (get $data "hmac-keys" | b64dec) "active" $previous.authHmacActiveKey) -}}
{{- dict "method" "hmac" "secret" $name "value" $key | toYaml -}}
{{- else if or (not $previous) $previous.authPasswordFile -}}
{{- /* Without a configuration of havip's, the Secret is that of keepalived-ingress-vip. */ -}}
{{- dict "method" "password" "secret" $name "value" (get $data "password" | b64dec) | toYaml -}}
{{- end -}}
{{- end -}}

{{/*
Id and digits of the key that a file of keys has sign, unless `active` names another one of them; or
nothing.
*/}}
{{- define "havip.signingKey" -}}
{{- $keys := include "havip.keysOfFile" .file | fromYaml -}}
{{- $id := regexFind "(?m)^\\s*['\"]?active['\"]?\\s*:\\s*['\"]?[0-9]+" .file | regexFind "[0-9]+$" -}}
{{- if .active -}}
{{- $id = int .active | toString -}}
{{- else if and (not $id) (eq (len $keys) 1) -}}
{{- $id = keys $keys | first -}}
{{- end -}}
{{- with get $keys $id -}}{{ printf "%s: %s" $id (lower .) }}{{- end -}}
{{- end -}}

{{/*
Another Secret has to begin with what the present one has: pods are replaced one after the other, and
those that have no common key or password do not understand each other.
*/}}
{{- define "havip.otherSecretProblems" -}}
{{- $present := include "havip.presentAuth" . | fromYaml -}}
{{- $method := include "havip.authMethod" . -}}
{{- $name := include "havip.secretName" . -}}
{{- $existing := .Values.authExistingSecret -}}
{{- if and $present.value (eq $present.method $method) (ne $present.secret $name) -}}
{{- $isHmac := eq $method "hmac" -}}
{{- $what := ternary (printf "key %s" (regexFind "^[0-9]+" $present.value)) "the password" $isHmac -}}
{{- $now := printf "%s of Secret %s" $what $present.secret -}}
{{- $found := dict -}}
{{- $next := "" -}}
{{- if $existing -}}
{{- $found = lookup "v1" "Secret" .Release.Namespace $existing -}}
{{- $data := default dict $found.data -}}
{{- $next = get $data "password" | b64dec -}}
{{- if $isHmac -}}
{{- $next = include "havip.signingKey" (dict "file" (get $data "hmac-keys" | b64dec) "active" .Values.authHmacActiveKey) -}}
{{- end -}}
{{- else if $isHmac -}}
{{- $next = include "havip.signingKey" (dict "file" (include "havip.hmacKeysFile" .)) -}}
{{- else -}}
{{- $next = include "havip.password" . -}}
{{- end -}}
{{- if and $existing (not $found) }}
authExistingSecret {{ $existing }}: is not there, and the nodes use {{ $now }}; create it with what Secret {{ $present.secret }} has, then upgrade
{{- else if and $existing (ne $next $present.value) }}
authExistingSecret {{ $existing }}: the nodes use {{ $now }}, change one after the other, and would not understand each other meanwhile; give it what Secret {{ $present.secret }} has, and change {{ ternary "the key" "the password" $isHmac }} after the upgrade
{{- else if ne $next $present.value }}
authExistingSecret: the nodes use {{ $now }}, change one after the other, and would not understand each other meanwhile; leave it at {{ $present.secret }}, or write what that has as {{ ternary (printf "authHmacKeys.%s" (regexFind "^[0-9]+" $present.value)) "authPassword" $isHmac }}
{{- end -}}
{{- end -}}
{{- end -}}
