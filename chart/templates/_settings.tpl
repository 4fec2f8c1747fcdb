{{/*
The daemon's settings that the values give, by their names, which are those of
docs/configuration.md. What is not given is left out.
*/}}
{{- define "havip.settings" -}}
{{- $settings := dict -}}
{{- range include "havip.settingNames" . | fromYamlArray -}}
  {{- $value := index $.Values . -}}
  {{- if kindIs "slice" $value -}}
    {{- $value = ternary $value (join "," $value) (eq . "virtualRouters") -}}
  {{- end -}}
  {{- if not (has $value (list nil "")) -}}
    {{- $_ := set $settings . (deepCopy $value) -}}
  {{- end -}}
{{- end -}}
{{- range $name := list "virtualRouters" "nodeOverrides" -}}
  {{- if not (get $settings $name) -}}
    {{- $_ := unset $settings $name -}}
  {{- end -}}
{{- end -}}
{{- include "havip.balancerSettings" (dict "root" . "settings" $settings) -}}
{{- /* Not mergeOverwrite: it does not overwrite with false. */ -}}
{{- if include "havip.former" . -}}
  {{- range $name, $value := include "havip.formerSettings" . | fromYaml -}}
    {{- $_ := set $settings $name $value -}}
  {{- end -}}
{{- end -}}
{{- if include "havip.discoversPeers" . -}}
  {{- $_ := set $settings "kubePeersService" (include "havip.peersService" .) -}}
{{- end -}}
{{- if not $settings.listen -}}
  {{- $_ := set $settings "listen" (printf "127.0.0.1:%d" (include "havip.port" (dict "settings" $settings) | int)) -}}
{{- end -}}
{{- range $each := concat (list $settings) (default list $settings.virtualRouters) (values (default dict $settings.nodeOverrides)) -}}
  {{- range $name, $_ := include "havip.numbers" $ | fromYaml -}}
    {{- if include "havip.isNumber" (get $each $name) -}}
      {{- $_ := set $each $name (get $each $name | float64) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/*
Those of the load balancer, if there is one, put into `settings`. The ingress controller's check is
nothing to an API VIP.
*/}}
{{- define "havip.balancerSettings" -}}
{{- if .root.Values.loadBalancer.enabled -}}
{{- $_ := set .settings "loadBalancer" true -}}
{{- if eq .settings.checkServiceUrl "http://127.0.0.1:10254/healthz" -}}
{{- $_ := unset .settings "checkServiceUrl" -}}
{{- end -}}
{{- else -}}
{{- range $name, $_ := .settings -}}
{{- /* That port was asked for, and leads nowhere: it is judged. */ -}}
{{- if and (hasPrefix "loadBalancer" $name) (ne $name "loadBalancerRedirectPort") -}}
{{- $_ := unset $.settings $name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The `settings` as they are on a node with this `override`, whose empty values do not count.
*/}}
{{- define "havip.onNode" -}}
{{- $settings := deepCopy .settings -}}
{{- range $name, $value := .override -}}
  {{- if not (has $value (list nil "")) -}}
    {{- $_ := set $settings $name $value -}}
  {{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/*
Whether this is text that reads as a number, as `--set` makes of 0.5: "true", or nothing.
*/}}
{{- define "havip.isNumber" -}}
{{- if kindIs "string" . -}}{{- if regexMatch "^[0-9]+(\\.[0-9]+)?$" . }}true{{ end -}}{{- end -}}
{{- end -}}

{{/*
Settings whose value here is the daemon's, as it is. Those of authentication are _auth.tpl's.
*/}}
{{- define "havip.settingNames" -}}
- vipAddressCidr
- virtualRouterId
- vrrpInterfaceName
- vipInterfaceName
- virtualRouters
- nodeOverrides
- vipTakeOver
- election
- leaseName
- leaseNamespace
- leaseDuration
- leaseRenewDeadline
- leaseRetryPeriod
- vrrpVersion
- vrrpAdvertInterval
- vrrpPriority
- vrrpNoPreempt
- vrrpPreemptDelay
- vrrpFastDetect
- vrrpUnicastPeers
- allUnhealthy
- checkServiceUrl
- checkServiceInterval
- checkServiceTimeout
- checkServiceFailAfter
- checkServiceRecoverAfter
- checkServiceWeight
- checkServiceExpectedStatus
- checkServiceInsecure
- checkServiceCaFile
- checkServiceFastFail
- checkKubelet
- checkKubeletUrl
- checkKubeletInterval
- checkKubeletTimeout
- checkKubeletFailAfter
- checkKubeletRecoverAfter
- checkKubeletWeight
- checkKubeletInsecure
- checkKubeletCaFile
- checkKubeApi
- checkKubeApiUrl
- checkKubeApiInterval
- checkKubeApiTimeout
- checkKubeApiFailAfter
- checkKubeApiRecoverAfter
- checkKubeApiWeight
- checkKubeApiStability
- checkKubeApiTokenFile
- checkKubeApiCaFile
- checkKubeApiClientCertFile
- checkKubeApiClientKeyFile
- kubeHolderLease
- kubeEvents
- kubeHolderLabel
- kubeNodeWatch
- kubeNodeWeight
- loadBalancerPort
- loadBalancerRedirectPort
- loadBalancerBind
- loadBalancerBackends
- loadBalancerBalance
- loadBalancerCheckInterval
- loadBalancerCheckTimeout
- loadBalancerCheckFailAfter
- loadBalancerCheckRecoverAfter
- loadBalancerCheckExpectedStatus
- loadBalancerCheckHost
- loadBalancerCaFile
- loadBalancerSlowStart
- loadBalancerConnectTimeout
- loadBalancerIdleTimeout
- loadBalancerMaxConnections
- loadBalancerProxyProtocol
- listen
- logFormat
- debug
{{- end -}}

{{/*
What the block of keepalived-ingress-vip means in havip's settings: that chart's behaviour, no more
and no less, beside pods of that chart.
*/}}
{{- define "havip.formerSettings" -}}
{{- $block := .Values.keepalived -}}
{{- $settings := dict
  "vrrpVersion" 2
  "vrrpAdvertInterval" 1
  "vrrpFastDetect" false
  "vrrpInterfaceName" "eth0"
  "vipInterfaceName" "eth0"
  "checkServiceExpectedStatus" "200-399"
  "checkServiceFastFail" false
  "vipTakeOver" true
  "kubeNodeWatch" false
-}}
{{- range $name, $value := $block -}}
  {{- if not (or (has $value (list nil "")) (eq $name "authPassword")) -}}
    {{- if has $name (list "vipAddressCidr" "vrrpInterfaceName" "vipInterfaceName" "checkServiceUrl" "checkKubeletUrl") -}}
      {{- $_ := set $settings $name $value -}}
    {{- else if has $name (list "debug" "vrrpNoPreempt" "checkKubelet" "checkKubeApi") -}}
      {{- $_ := set $settings $name (eq (toString $value) "true") -}}
    {{- else -}}
      {{- $_ := set $settings $name (float64 $value) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- /* It verified no certificate, and added the service account's token, which the API servers of
k3s and RKE2 want before they say anything but 401. havip's service check sends no credential. */ -}}
{{- $url := default .Values.checkServiceUrl $settings.checkServiceUrl -}}
{{- if hasPrefix "https://" $url -}}
  {{- $_ := set $settings "checkServiceExpectedStatus" "200-399,401" -}}
  {{- if not (or .Values.checkServiceCaFile (regexMatch "^https://(127\\.|localhost[:/]|\\[::1\\])" $url)) -}}
    {{- $_ := set $settings "checkServiceInsecure" true -}}
  {{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/*
Port of the status server: releases that share a node have different VRIDs.
*/}}
{{- define "havip.port" -}}
{{- $settings := .settings -}}
{{- if $settings.listen -}}
{{- regexFind "[0-9]+$" $settings.listen -}}
{{- else -}}
{{- $lowest := 255 -}}
{{- range default (list dict) $settings.virtualRouters -}}
{{- $lowest = min $lowest (int (default $settings.virtualRouterId .virtualRouterId)) -}}
{{- end -}}
{{- add 9640 $lowest -}}
{{- end -}}
{{- end -}}

{{/*
Where that server is asked from the node itself.
*/}}
{{- define "havip.probeHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .settings.listen "" | trimAll "[]" -}}
{{- get (dict "0.0.0.0" "127.0.0.1" "::" "::1") $host | default $host -}}
{{- end -}}

{{/*
The daemon's file. Settings come from the values, secrets from files beside it.
*/}}
{{- define "havip.config" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- range $name, $value := include "havip.authSettings" . | fromYaml -}}
  {{- $_ := set $settings $name $value -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/*
The file as it was before this upgrade, or an empty mapping.
*/}}
{{- define "havip.previousConfig" -}}
{{- $before := lookup "v1" "ConfigMap" .Release.Namespace (include "havip.fullname" .) -}}
{{- get (default dict $before.data) "config.yaml" | default "{}" -}}
{{- end -}}
