{{/*
What is wrong with the values and the schema cannot say: a line `field value: problem; remedy` for
each, in the words of the daemon where it would refuse the same.
*/}}
{{- define "havip.problems" -}}
{{- if not (or (hasKey .Values "authMethod") (hasKey .Values "election")) }}
{{- fail "\n\n--reuse-values: would keep the defaults of the chart that was there before; use --reset-then-reuse-values, or give the values by --values\n" }}
{{- end }}
{{- $unreadable := include "havip.missingProblems" . -}}
{{- if not $unreadable }}{{ $unreadable = include "havip.numberProblems" . }}{{ end -}}
{{- if $unreadable }}{{ $unreadable }}{{ else }}{{ include "havip.wrongProblems" . }}{{ end -}}
{{- end -}}

{{/*
Values that an empty heading, or null, has removed with their defaults. Without them nothing else can
be judged.
*/}}
{{- define "havip.missingProblems" -}}
{{- $told := list -}}
{{- range $name := include "havip.requiredNames" . | fromYamlArray -}}
{{- $value := $.Values -}}
{{- $path := list -}}
{{- range $part := splitList "." $name -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $value = index $value $part -}}
{{- $path = append $path $part -}}
{{- end -}}
{{- end -}}
{{- if kindIs "invalid" $value -}}{{- $told = append $told (join "." $path) -}}{{- end -}}
{{- end -}}
{{- range uniq $told }}
{{ . }}: is empty, and its default is gone; give it a value, or leave it out{{ if $.Release.IsUpgrade }} (and upgrade with --reset-then-reuse-values, not --reuse-values){{ end }}
{{- end }}
{{- end -}}

{{/*
Numbers that are given as text; the schema looks at the others.
*/}}
{{- define "havip.numberProblems" -}}
{{- $given := dict "" .Values -}}
{{- range $index, $entry := .Values.virtualRouters -}}
{{- $_ := set $given (printf "virtualRouters[%d]." $index) $entry -}}
{{- end -}}
{{- range $node, $override := .Values.nodeOverrides -}}
{{- $_ := set $given (printf "nodeOverrides.%s." $node) (default dict $override) -}}
{{- end -}}
{{- range $prefix, $values := $given -}}
{{- range $name, $bounds := include "havip.numbers" $ | fromYaml -}}
{{- $text := get $values $name -}}
{{- if and (kindIs "string" $text) (ne $text "") -}}
{{- $isWrong := not (include "havip.isNumber" $text) -}}
{{- range $bound, $limit := $bounds -}}
{{- if eq $bound "maximum" -}}{{- $isWrong = or $isWrong (gt (float64 $text) (float64 $limit)) -}}
{{- else if eq $bound "minimum" -}}{{- $isWrong = or $isWrong (lt (float64 $text) (float64 $limit)) -}}
{{- else -}}{{- $isWrong = or $isWrong (le (float64 $text) (float64 $limit)) -}}
{{- end -}}
{{- end -}}
{{- if $isWrong }}
{{ $prefix }}{{ $name }} {{ $text }}: is no number {{ ternary "above" "from" (hasKey $bounds "exclusiveMinimum") }} {{ ternary $bounds.exclusiveMinimum $bounds.minimum (hasKey $bounds "exclusiveMinimum") }} to {{ $bounds.maximum }}; write one
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "havip.wrongProblems" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- if not (has (lower .Values.kind) (list "deployment" "daemonset")) }}
kind {{ .Values.kind }}: is no kind of workload; write Deployment or DaemonSet
{{- end }}
{{- include "havip.settingsProblems" $settings }}
{{- include "havip.authProblems" . }}
{{- include "havip.formerProblems" . }}
{{- include "havip.workloadProblems" . }}
{{- include "havip.podProblems" . }}
{{- include "havip.monitoringProblems" . }}
{{- include "havip.clusterProblems" . }}
{{- end -}}

{{/*
The virtual routers of the settings, each with what it takes from outside the list: by the prefix
of its settings in messages.
*/}}
{{- define "havip.routers" -}}
{{- $routers := dict -}}
{{- if .virtualRouters -}}
{{- range $index, $entry := .virtualRouters -}}
{{- $router := deepCopy (omit $ "virtualRouters" "nodeOverrides" "vipAddressCidr") -}}
{{- range $name, $value := $entry -}}
{{- if not (has $value (list nil "")) -}}{{- $_ := set $router $name $value -}}{{- end -}}
{{- end -}}
{{- $_ := set $routers (printf "virtualRouters[%d]." $index) $router -}}
{{- end -}}
{{- else -}}
{{- $_ := set $routers "" . -}}
{{- end -}}
{{- toYaml $routers -}}
{{- end -}}

{{/*
The VIPs of a router as a list of texts.
*/}}
{{- define "havip.vips" -}}
{{- $vips := list -}}
{{- $given := default "" .vipAddressCidr -}}
{{- range kindIs "slice" $given | ternary $given (splitList "," (toString $given)) -}}
{{- $text := trim (toString .) -}}
{{- if $text -}}{{- $vips = append $vips $text -}}{{- end -}}
{{- end -}}
{{- toYaml $vips -}}
{{- end -}}

{{/*
What the daemon would refuse, on whichever node.
*/}}
{{- define "havip.settingsProblems" -}}
{{- include "havip.routersProblems" . }}
{{- include "havip.processProblems" . }}
{{- include "havip.overrideProblems" . }}
{{- end -}}

{{- define "havip.routersProblems" -}}
{{- $settings := . -}}
{{- if and $settings.virtualRouters $settings.vipAddressCidr }}
vipAddressCidr {{ $settings.vipAddressCidr }}: is given beside virtualRouters, whose entries have their own; make it an entry of virtualRouters
{{- end }}
{{- $takenVips := dict }}
{{- $takenIds := dict }}
{{- range $prefix, $router := include "havip.routers" $settings | fromYaml }}
{{- include "havip.routerProblems" (dict "prefix" $prefix "router" $router "allUnhealthy" $settings.allUnhealthy) }}
{{- range include "havip.vips" $router | fromYamlArray }}
{{- $address := include "havip.sameAddress" . }}
{{- if hasKey $takenVips $address }}
{{ $prefix }}vipAddressCidr {{ . }}: is given twice; name each VIP once
{{- end }}
{{- $_ := set $takenVips $address true }}
{{- end }}
{{- $id := printf "%v on %s" $router.virtualRouterId (default "the same interface" $router.vrrpInterfaceName) }}
{{- if hasKey $takenIds $id }}
{{ $prefix }}virtualRouterId {{ $router.virtualRouterId }}: is given twice; give each virtual router its own
{{- end }}
{{- $_ := set $takenIds $id true }}
{{- end }}
{{- end -}}

{{- define "havip.routerProblems" -}}
{{- $prefix := .prefix -}}
{{- $router := .router -}}
{{- $vips := include "havip.vips" $router | fromYamlArray -}}
{{- $version := int $router.vrrpVersion -}}
{{- if not $vips }}
{{ $prefix }}vipAddressCidr: no VIP is given; set it to an address that nobody has, with prefix length, such as 192.168.1.100/24
{{- end }}
{{- $ipv6 := list }}
{{- range $vip := $vips }}
{{- with include "havip.vipProblem" $vip }}
{{ $prefix }}vipAddressCidr {{ $vip }}: {{ . }}
{{- end }}
{{- if contains ":" $vip }}{{ $ipv6 = append $ipv6 $vip }}{{ end }}
{{- end }}
{{- range $family, $count := dict "IPv6" (len $ipv6) "IPv4" (sub (len $vips) (len $ipv6)) }}
{{- if gt (int $count) 20 }}
{{ $prefix }}vipAddressCidr: has {{ $count }} {{ $family }} addresses, and an advert holds 20; spread them over several entries of virtualRouters
{{- end }}
{{- end }}
{{- if and $ipv6 (eq $version 2) }}
{{ $prefix }}vipAddressCidr {{ first $ipv6 }}: VRRPv2 knows IPv4 only (RFC 3768); set vrrpVersion: 3
{{- end }}
{{- with $router.vrrpAdvertInterval }}
{{- $hundredths := mulf . 100 }}
{{- if and (eq $version 2) (ne (float64 .) (floor .)) }}
{{ $prefix }}vrrpAdvertInterval {{ . }}: VRRPv2 carries whole seconds (RFC 3768 §5.3.7); set {{ max 1 (round . 0 | int) }}, or vrrpVersion: 3
{{- else if and (eq $version 3) (gt (float64 .) 40.95) }}
{{ $prefix }}vrrpAdvertInterval {{ . }}: VRRPv3 carries 0.01 to 40.95 seconds (RFC 9568 §5.2.7); set 40.95 or less
{{- else if and (eq $version 3) (ne (float64 $hundredths) (round $hundredths 0)) }}
{{ $prefix }}vrrpAdvertInterval {{ . }}: VRRPv3 carries whole hundredths of a second (RFC 9568 §5.2.7); set {{ round . 2 }}
{{- end }}
{{- end }}
{{- include "havip.interfaceProblems" (dict "prefix" $prefix "settings" $router) }}
{{- if and (eq .allUnhealthy "hold") (lt (int $router.vrrpPriority) 16) }}
{{ $prefix }}vrrpPriority {{ $router.vrrpPriority }}: with allUnhealthy: hold, priorities below 16 are those of unhealthy nodes; set 16 or more, or allUnhealthy: drop
{{- end }}
{{- include "havip.peersProblems" (dict "prefix" $prefix "peers" $router.vrrpUnicastPeers "vips" $vips) }}
{{- end -}}

{{- define "havip.interfaceProblems" -}}
{{- range $name := list "vrrpInterfaceName" "vipInterfaceName" }}
{{- with get $.settings $name }}
{{- if not (regexMatch "^[^\\s/]{1,15}$" .) }}
{{ $.prefix }}{{ $name }} {{ . }}: cannot be the name of an interface; name one, such as eth0, or leave it empty to find it by the VIP's subnet
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "havip.peersProblems" -}}
{{- $prefix := .prefix -}}
{{- $vips := .vips -}}
{{- $taken := list -}}
{{- $texts := list -}}
{{- $unusable := list "the unspecified address" "a multicast address" "the broadcast address" "an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2)" -}}
{{- $isAuto := include "havip.isAuto" .peers -}}
{{- range $peer := kindIs "slice" .peers | ternary .peers (splitList "," (toString (default "" .peers))) }}
{{- $peer = trim (toString $peer) }}
{{- if not $peer }}
{{- else if eq $peer "auto" }}
{{- if not $isAuto }}
{{ $prefix }}vrrpUnicastPeers auto: is auto and more; write auto alone, or list the peers' addresses
{{- end }}
{{- else if not (include "havip.addressNumbers" $peer) }}
{{ $prefix }}vrrpUnicastPeers {{ $peer }}: is not an IP address; write it like 192.0.2.10
{{- else }}
{{- $address := include "havip.sameAddress" $peer }}
{{- $kind := include "havip.reservedKind" (splitList "," $address) }}
{{- $taken = append $taken $address }}
{{- $texts = append $texts $peer }}
{{- if or (has $kind $unusable) (eq $kind "a loopback address") }}
{{ $prefix }}vrrpUnicastPeers {{ $peer }}: is {{ has $kind $unusable | ternary "no unicast address" "this host itself" }}; list the other nodes' own addresses
{{- end }}
{{- if has $address (initial $taken) }}
{{ $prefix }}vrrpUnicastPeers {{ $peer }}: is given twice; name each peer once
{{- end }}
{{- range $vips }}
{{- if eq (include "havip.sameAddress" .) $address }}
{{ $prefix }}vrrpUnicastPeers {{ $peer }}: is a VIP; list the other nodes' own addresses
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $taken $vips }}
{{- range $family, $colon := dict "IPv4" false "IPv6" true }}
{{- $hasVip := false }}
{{- $hasPeer := false }}
{{- range $vips }}{{ if eq (contains ":" .) $colon }}{{ $hasVip = true }}{{ end }}{{ end }}
{{- range $taken }}{{ if eq (gt (len (splitList "," .)) 4) $colon }}{{ $hasPeer = true }}{{ end }}{{ end }}
{{- if and $hasVip (not $hasPeer) }}
{{ $prefix }}vrrpUnicastPeers {{ join "," $texts }}: there is an {{ $family }} VIP and no {{ $family }} peer; add the peers' {{ $family }} addresses
{{- else if and $hasPeer (not $hasVip) }}
{{ $prefix }}vrrpUnicastPeers {{ join "," $texts }}: there is an {{ $family }} peer and no {{ $family }} VIP; leave the {{ $family }} addresses out
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Settings that hold for the whole process.
*/}}
{{- define "havip.processProblems" -}}
{{- $settings := . -}}
{{- include "havip.urlProblems" $settings }}
{{- range $check := list "checkService" "checkKubelet" "checkKubeApi" }}
{{- $interval := get $settings (printf "%sInterval" $check) }}
{{- with get $settings (printf "%sTimeout" $check) }}
{{- if ge (float64 .) (float64 $interval) }}
{{ $check }}Timeout {{ . }}: is not less than {{ $check }}Interval ({{ $interval }}), so that probes would overlap; set less than {{ $interval }}, or leave it out
{{- end }}
{{- end }}
{{- if and (get $settings (printf "%sInsecure" $check)) (get $settings (printf "%sCaFile" $check)) }}
{{ $check }}Insecure true: contradicts {{ $check }}CaFile; leave one of them out
{{- end }}
{{- end }}
{{- if ne (empty $settings.checkKubeApiClientCertFile) (empty $settings.checkKubeApiClientKeyFile) }}
{{- $given := ternary "checkKubeApiClientKeyFile" "checkKubeApiClientCertFile" (empty $settings.checkKubeApiClientCertFile) }}
{{- $missing := ternary "checkKubeApiClientCertFile" "checkKubeApiClientKeyFile" (empty $settings.checkKubeApiClientCertFile) }}
{{ $given }} {{ get $settings $given }}: is of no use alone; set {{ $missing }} too
{{- end }}
{{- include "havip.leaseProblems" $settings }}
{{- include "havip.statusProblems" (dict "name" "checkServiceExpectedStatus" "value" $settings.checkServiceExpectedStatus) }}
{{- include "havip.balancerProblems" $settings }}
{{- $host := regexReplaceAll ":[0-9]+$" $settings.listen "" }}
{{- $port := regexFind "[0-9]+$" $settings.listen }}
{{- $isIpv6 := contains ":" $host }}
{{- if not (and (regexMatch "^[0-9]{1,5}$" $port) (ge (atoi $port) 1) (le (atoi $port) 65535) (include "havip.addressNumbers" (trimAll "[]" $host)) (eq $isIpv6 (regexMatch "^\\[.*\\]$" $host))) }}
listen {{ $settings.listen }}: is no IP address with a port from 1 to 65535; write it like 127.0.0.1:9650 or [::1]:9650
{{- end }}
{{- end -}}

{{- define "havip.statusProblems" -}}
{{- $name := .name -}}
{{- with .value }}
{{- $statuses := without (regexReplaceAll "\\s*,\\s*" (toString . | trim) "," | splitList ",") "" }}
{{- range $statuses }}
{{- $range := splitList "-" . }}
{{- if not (and (regexMatch "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$" .) (le (first $range) (last $range))) }}
{{ $name }} {{ . }}: is no HTTP status code or range of them; write it like 200-299 or 200,301
{{- end }}
{{- end }}
{{- if not $statuses }}
{{ $name }} {{ . }}: names no status; write it like 200-299 or 200,301
{{- end }}
{{- end }}
{{- end -}}

{{- define "havip.urlProblems" -}}
{{- range $name, $schemes := dict "checkServiceUrl" (list "http" "https" "tcp") "checkKubeletUrl" (list "http" "https" "tcp") "checkKubeApiUrl" (list "https" "http") }}
{{- $url := get $ $name }}
{{- if and $url (not (and (eq $name "checkKubeApiUrl") (eq $url "auto"))) }}
{{- with include "havip.urlProblem" (dict "url" $url "schemes" $schemes) }}
{{ $name }} {{ contains "user or a password" . | ternary "***" $url }}: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Times of a Lease that contradict one another, and what a Lease cannot elect.
*/}}
{{- define "havip.leaseProblems" -}}
{{- $lasts := int .leaseDuration -}}
{{- $deadline := float64 .leaseRenewDeadline -}}
{{- $retry := float64 .leaseRetryPeriod -}}
{{- if and (eq .election "lease") (eq (toString .vrrpUnicastPeers) "auto") }}
vrrpUnicastPeers auto: means nothing where a Lease elects the holder; leave it out
{{- end }}
{{- if ge $deadline (float64 $lasts) }}
leaseRenewDeadline {{ $deadline }}: is not less than leaseDuration ({{ $lasts }}), so that another node could hold the VIP before this one gave it up; set less than {{ $lasts }}
{{- end }}
{{- if ge (mulf $retry 1.2) $deadline }}
leaseRetryPeriod {{ $retry }}: with the jitter of 1.2 it is not less than leaseRenewDeadline ({{ $deadline }}), so that one failed renewal would end the hold; set less than {{ round (divf $deadline 1.2) 3 }}
{{- end }}
{{- if gt (addf $retry 4) (float64 $lasts) }}
leaseDuration {{ $lasts }}: is less than leaseRetryPeriod ({{ $retry }}) and 4 seconds, for so long may an address outlive its daemon; set more
{{- end }}
{{- with .leaseNamespace }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" .) }}
leaseNamespace {{ . }}: cannot be the name of a namespace; use lower-case letters, digits and hyphens, such as kube-system
{{- end }}
{{- end }}
{{- $names := dict }}
{{- range $prefix, $router := include "havip.routers" . | fromYaml }}
{{- $name := include "havip.leaseName" $router }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$" $name) }}
{{ $prefix }}leaseName {{ $name }}: cannot be the name of an object in Kubernetes; use lower-case letters, digits, hyphens and dots, such as havip-10
{{- else if and (hasKey $names $name) (or (eq $router.election "lease") (and $router.kubeHolderLease (ne (get $names $name) (toString $router.virtualRouterId)))) }}
{{ $prefix }}leaseName {{ $name }}: {{ eq $router.election "lease" | ternary "elects" "shows" }} the holder of another virtual router; give each its own leaseName, or its own virtualRouterId
{{- end }}
{{- $_ := set $names $name (toString $router.virtualRouterId) }}
{{- end }}
{{- if and (eq .election "lease") (eq .allUnhealthy "hold") }}
allUnhealthy hold: a Lease does not say who is the best of the unhealthy; set drop, or election: vrrp
{{- end }}
{{- end -}}

{{/*
The name of a virtual router's Lease.
*/}}
{{- define "havip.leaseName" -}}
{{- default (printf "havip-%d" (int .virtualRouterId)) .leaseName -}}
{{- end -}}

{{/*
What single nodes have for themselves.
*/}}
{{- define "havip.overrideProblems" -}}
{{- $ofAll := printf "%s%s" (include "havip.routersProblems" .) (include "havip.processProblems" .) | splitList "\n" -}}
{{- range $node, $override := .nodeOverrides }}
{{- $settings := include "havip.onNode" (dict "settings" $ "override" $override) | fromYaml }}
{{- range printf "%s%s" (include "havip.routersProblems" $settings) (include "havip.processProblems" $settings) | splitList "\n" }}
{{- if not (has . $ofAll) }}
nodeOverrides.{{ $node }}.{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
What the former chart's values cannot mean here.
*/}}
{{- define "havip.formerProblems" -}}
{{- if include "havip.former" . -}}
{{- $block := .Values.keepalived }}
{{- if and .Values.vipAddressCidr $block.vipAddressCidr }}
vipAddressCidr {{ .Values.vipAddressCidr }}: is given beside keepalived.vipAddressCidr; leave one of them out
{{- end }}
{{- if .Values.virtualRouters }}
virtualRouters: are unknown to keepalived-ingress-vip; write the block `keepalived` as flat values
{{- end }}
{{- if eq .Values.election "lease" }}
election lease: keepalived-ingress-vip elects by VRRP; leave it out, or write the block `keepalived` as flat values
{{- end }}
{{- with .Values.vrrpUnicastPeers }}
vrrpUnicastPeers: keepalived-ingress-vip speaks by multicast; leave it out, or write the block `keepalived` as flat values
{{- end }}
{{- range $name := list "virtualRouterId" "checkServiceInterval" "checkServiceFailAfter" "checkKubeletInterval" "checkKubeletFailAfter" "checkKubeApiInterval" "checkKubeApiFailAfter" }}
{{- $value := get $block $name }}
{{- if not (has $value (list nil "")) }}
{{- $least := ternary 0.1 1.0 (hasSuffix "Interval" $name) }}
{{- $most := ternary 255.0 1000.0 (eq $name "virtualRouterId") }}
{{- $isWhole := not (hasSuffix "Interval" $name) }}
{{- $form := ternary "^[0-9]+$" "^[0-9]+(\\.[0-9]+)?$" $isWhole }}
{{- if or (not (regexMatch $form (toString $value))) (lt (float64 $value) $least) (gt (float64 $value) $most) }}
keepalived.{{ $name }} {{ $value }}: is no {{ $isWhole | ternary "whole number" "number" }} from {{ $least }} to {{ $most }}; write one
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (hasSuffix "/keepalived-ingress-vip" (printf "/%s" .Values.image.repository)) (not (include "havip.isFormerImage" .)) }}
image.repository {{ .Values.image.repository }}: is the image of another program; name havip's
{{- end }}
{{- end -}}

{{/*
What the API would refuse of the workload, when other objects are there already.
*/}}
{{- define "havip.workloadProblems" -}}
{{- $kind := include "havip.kind" . -}}
{{- $strategy := include "havip.updateStrategy" . | fromYaml -}}
{{- $types := list "RollingUpdate" (ternary "OnDelete" "Recreate" (eq $kind "DaemonSet")) -}}
{{- if not (has $strategy.type $types) }}
updateStrategy.type {{ $strategy.type }}: is none of a {{ $kind }}; write {{ join " or " $types }}
{{- else if and $strategy.rollingUpdate (ne $strategy.type "RollingUpdate") }}
updateStrategy.rollingUpdate: is of no use with type {{ $strategy.type }}; leave it out
{{- else if $strategy.rollingUpdate }}
{{- $unavailable := not (has (toString $strategy.rollingUpdate.maxUnavailable) (list "0" "0%")) }}
{{- $surge := not (has (toString $strategy.rollingUpdate.maxSurge) (list "0" "0%")) }}
{{- if not (or $unavailable $surge) }}
updateStrategy.rollingUpdate.maxUnavailable 0: lets no pod be replaced, since maxSurge is 0 too; set one of them to 1
{{- else if and $unavailable $surge (eq $kind "DaemonSet") }}
updateStrategy.rollingUpdate.maxSurge {{ $strategy.rollingUpdate.maxSurge }}: cannot stand beside maxUnavailable {{ $strategy.rollingUpdate.maxUnavailable }} in a DaemonSet; set one of them to 0
{{- end }}
{{- end }}
{{- if not (regexMatch "^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$" .Values.image.repository) }}
image.repository {{ .Values.image.repository }}: is no name of an image without tag and digest; write it like registry.example.org/havip, and set image.tag
{{- end }}
{{- if and .Values.loadBalancer.enabled (not .Values.loadBalancer.image.tag) (not .Values.loadBalancer.image.digest) }}
loadBalancer.image.tag: is empty, and there is no digest; write the version of HAProxy, such as 3.0, or set loadBalancer.image.digest
{{- end }}
{{- $volumes := list "config" "auth" "state" }}
{{- range .Values.pod.extraVolumes }}
{{- if has .name $volumes }}
pod.extraVolumes {{ .name }}: is given twice, or the chart's own; choose another name
{{- end }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- range .Values.pod.extraVolumeMounts }}
{{- if not (has .name $volumes) }}
pod.extraVolumeMounts {{ .name }}: is no volume; add it to pod.extraVolumes, or name one that is there
{{- end }}
{{- end }}
{{- end -}}

{{- define "havip.podProblems" -}}
{{- $resources := include "havip.resources" . | fromYaml -}}
{{- with (default dict $resources.limits).memory }}
{{- if lt (include "havip.quantity" . | float64) 100663296.0 }}
pod.resources.limits.memory {{ . }}: would kill the process, which takes some 60Mi; set 128Mi, or at least 96Mi
{{- end }}
{{- end }}
{{- with (default dict $resources.limits).cpu }}
{{- if lt (include "havip.quantity" . | float64) 0.1 }}
pod.resources.limits.cpu {{ . }}: would hold adverts back for longer than backups wait; leave it out, or set 100m or more
{{- end }}
{{- end }}
{{- range $name, $amount := $resources.requests }}
{{- $limit := get (default dict $resources.limits) $name }}
{{- if and $limit (gt (include "havip.quantity" $amount | float64) (include "havip.quantity" $limit | float64)) }}
pod.resources.requests.{{ $name }} {{ $amount }}: is more than the limit, {{ $limit }}; raise pod.resources.limits.{{ $name }}, or request less
{{- end }}
{{- end }}
{{- $names := dict }}
{{- range .Values.pod.extraEnv }}
{{- if hasKey $names .name }}
pod.extraEnv {{ .name }}: is given twice; name each variable once
{{- end }}
{{- $_ := set $names .name true }}
{{- end }}
{{- end -}}

{{- define "havip.monitoringProblems" -}}
{{- if and .Values.metrics.podMonitor.enabled (not (include "havip.metricsPort" .)) }}
metrics.podMonitor.enabled true: Prometheus cannot reach the loopback address; set metrics.enabled: true
{{- end }}
{{- $rule := .Values.metrics.prometheusRule }}
{{- if and $rule.enabled (not .Values.metrics.podMonitor.enabled) (not $rule.job) }}
metrics.prometheusRule.enabled true: its alerts ask for what a PodMonitor has scraped, and without one HavipNoHolder would never end; set metrics.podMonitor.enabled: true, or metrics.prometheusRule.job to the job that scrapes the pods
{{- end }}
{{- end -}}

{{/*
What the cluster would refuse later, and only an event of a controller would tell.
*/}}
{{- define "havip.clusterProblems" -}}
{{- $fullname := include "havip.fullname" . -}}
{{- $namespace := include "havip.namespace" . | fromYaml -}}
{{- $labels := (default dict $namespace.metadata).labels | default dict -}}
{{- $level := get $labels "pod-security.kubernetes.io/enforce" }}
{{- if and $level (ne $level "privileged") }}
namespace {{ .Release.Namespace }}: its Pod Security level {{ $level }} forbids the host's network, so that no pod would be created; kubectl label namespace {{ .Release.Namespace }} pod-security.kubernetes.io/enforce=privileged --overwrite
{{- end }}
{{- if include "havip.seesCluster" . }}
{{- if and .Values.serviceAccount.name (not .Values.extraObjects) (not (lookup "v1" "ServiceAccount" .Release.Namespace .Values.serviceAccount.name)) }}
serviceAccount.name {{ .Values.serviceAccount.name }}: namespace {{ .Release.Namespace }} has no such service account, so that no pod would be created; create it, or leave it empty
{{- end }}
{{- if and .Values.rbac.create .Values.pod.priorityClassName (not .Values.extraObjects) (not (lookup "scheduling.k8s.io/v1" "PriorityClass" "" .Values.pod.priorityClassName)) }}
pod.priorityClassName {{ .Values.pod.priorityClassName }}: the cluster has no such priority class, so that no pod would be created; create it, or set system-cluster-critical
{{- end }}
{{- end }}
{{- $before := lookup "apps/v1" (include "havip.kind" .) .Release.Namespace $fullname }}
{{- if $before }}
{{- $selector := $before.spec.selector.matchLabels }}
{{- $wanted := include "havip.selectorLabels" . | fromYaml }}
{{- if ne (toYaml $selector) (toYaml $wanted) }}
{{ include "havip.kind" . }} {{ $fullname }}: is there with another selector ({{ range $name, $value := $selector }}{{ $name }}={{ $value }} {{ end }}), which Kubernetes does not change; {{ with get $selector "app.kubernetes.io/name" }}set nameOverride: {{ . }}, or {{ end }}delete it first
{{- end }}
{{- end }}
{{- include "havip.clashes" (dict "root" . "isSure" true) }}
{{- end -}}

{{/*
Other releases that this one would meet on a node or on the wire, of this chart and of
keepalived-ingress-vip. `isSure` chooses those that helm has marked as its own; of others the notes
warn, since whoever may create a Deployment could claim what he likes.
*/}}
{{- define "havip.clashes" -}}
{{- $root := .root -}}
{{- $settings := include "havip.settings" $root | fromYaml -}}
{{- $everywhere := ternary "" $root.Release.Namespace $root.Values.rbac.create -}}
{{- $port := include "havip.port" (dict "settings" $settings) -}}
{{- range $kind := list "Deployment" "DaemonSet" }}
{{- range $workload := (lookup "apps/v1" $kind $everywhere "").items }}
{{- $labels := default dict .metadata.labels }}
{{- $annotations := default dict .metadata.annotations }}
{{- $release := get $labels "app.kubernetes.io/instance" }}
{{- $isOther := or (ne $release $root.Release.Name) (ne .metadata.namespace $root.Release.Namespace) }}
{{- if and $isOther (eq (hasKey $annotations "meta.helm.sh/release-name") $.isSure) }}
{{- $who := printf "release %s in namespace %s" $release .metadata.namespace }}
{{- $taken := dict }}
{{- if eq (get $labels "app.kubernetes.io/part-of") "havip" }}
{{- $_ := set $taken "port" (get $annotations "havip/port") }}
{{- $_ := set $taken "routers" (get $annotations "havip/virtual-routers" | default "[]" | fromJsonArray) }}
{{- else if eq (get $labels "app.kubernetes.io/name") "keepalived-ingress-vip" }}
{{- $_ := set $taken "routers" (include "havip.takenByFormer" $workload | fromYamlArray) }}
{{- end }}
{{- if and $taken.port (eq $taken.port (toString $port)) }}
listen {{ $settings.listen }}: its port is that of {{ $who }}, and both may be on one node; set another port
{{- end }}
{{- range $prefix, $router := include "havip.routers" $settings | fromYaml }}
{{- $vips := include "havip.vips" $router | fromYamlArray }}
{{- range $theirs := $taken.routers }}
{{- if kindIs "map" $theirs }}
{{- $isApart := and $theirs.interface $router.vrrpInterfaceName (ne (toString $theirs.interface) (toString $router.vrrpInterfaceName)) }}
{{- if and (eq (int $theirs.id) (int $router.virtualRouterId)) (not $isApart) (not $root.Values.allowSharedVirtualRouterId) }}
{{ $prefix }}virtualRouterId {{ int $theirs.id }}: is that of {{ $who }}; choose another, or set allowSharedVirtualRouterId: true if the two speak on separate networks
{{- end }}
{{- $addresses := kindIs "slice" $theirs.addresses | ternary $theirs.addresses list }}
{{- range $address := $addresses }}
{{- range $vips }}
{{- if eq (include "havip.sameAddress" .) (include "havip.sameAddress" $address) }}
{{ $prefix }}vipAddressCidr {{ . }}: is held by {{ $who }} already; choose another address
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
What a workload of keepalived-ingress-vip takes: it says so in variables of its container.
*/}}
{{- define "havip.takenByFormer" -}}
{{- $given := dict -}}
{{- range $container := .spec.template.spec.containers -}}
{{- range $container.env -}}{{- $_ := set $given .name (toString .value) -}}{{- end -}}
{{- end -}}
{{- $addresses := splitList "," (get $given "VIP_ADDR_CIDR") -}}
{{- list (dict "id" (get $given "VIRTUAL_ROUTER_ID" | default "10" | int) "interface" (get $given "VRRP_IFACE" | default "eth0") "addresses" $addresses) | toYaml -}}
{{- end -}}

{{/*
What this release takes, for the templates above of another one.
*/}}
{{- define "havip.taken" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- $routers := list -}}
{{- range $prefix, $router := include "havip.routers" $settings | fromYaml -}}
{{- $addresses := list -}}
{{- range include "havip.vips" $router | fromYamlArray -}}
{{- $addresses = append $addresses (regexReplaceAll "/.*$" . "" | lower) -}}
{{- end -}}
{{- $routers = append $routers (dict "id" (int $router.virtualRouterId) "interface" (toString (default "" $router.vrrpInterfaceName)) "addresses" $addresses) -}}
{{- end -}}
havip/port: {{ include "havip.port" (dict "settings" $settings) | quote }}
havip/virtual-routers: {{ toJson $routers | quote }}
{{- end -}}
