{{- define "havip.notesOnAuth" -}}
{{- $method := include "havip.authMethod" . -}}
{{- if eq $method "hmac" }}

Adverts are signed by HMAC, with {{ if .Values.authExistingSecret }}the keys in{{ else if include "havip.hasAllHmacKeys" . }}the keys of authHmacKeys, in{{ else }}a random key, kept in{{ end }} Secret {{ include "havip.secretName" . }}. To change the
key, see docs/chart.md.
{{- else if eq $method "password" }}

Adverts carry the password in Secret {{ include "havip.secretName" . }}, in clear. Version 2 knows no better.
{{- else }}

Adverts are not signed: anybody on the network can take the VIP.
{{- if not (include "havip.seesCluster" .) }}
This was rendered without a cluster, where a key made at random could not be kept: set
authExistingSecret to a Secret with hmac-keys.
{{- else if .Release.IsUpgrade }}
To sign them, go through authMethod: hmac with authHmacMode: receive-only, permissive, enforce, an
upgrade for each.
{{- end }}
{{- end }}
{{- with .Values.authExistingSecret }}
{{- if and (include "havip.seesCluster" $) (not (lookup "v1" "Secret" $.Release.Namespace .)) }}
Secret {{ . }} is not there yet; the pods wait for it.
{{- end }}
{{- end }}
{{- end -}}

{{/*
What the former chart's values were taken for.
*/}}
{{- define "havip.notesOnFormer" -}}
{{- $root := .root -}}
{{- $settings := .settings -}}
{{- if $root.Values.rbac.pspEnabled }}

rbac.pspEnabled has no effect: Kubernetes has no PodSecurityPolicy since 1.25. Its Pod Security admission
wants a label instead, if namespaces are restricted in your cluster:
  kubectl label namespace {{ $root.Release.Namespace }} pod-security.kubernetes.io/enforce=privileged
{{- end }}
{{- if include "havip.former" $root }}

The values are those of keepalived-ingress-vip, and mean the same here; pods of both charts understand
each other. Translated:
{{- range $name, $value := $root.Values.keepalived }}
{{- if not (has $value (list nil "")) }}
  keepalived.{{ $name }} -> {{ $name }}: {{ ternary "***" (get $settings $name) (eq $name "authPassword") }}
{{- end }}
{{- end }}
  version 2, an advert each second -> vrrpVersion: 2, vrrpAdvertInterval: 1
  2xx and 3xx are healthy -> checkServiceExpectedStatus: {{ $settings.checkServiceExpectedStatus }}
{{- if contains "401" (toString $settings.checkServiceExpectedStatus) }}
    (and 401, with which k3s and RKE2 answer now that no token is sent; checkKubeApi does better, see
    docs/chart.md)
{{- end }}
{{- if $settings.checkServiceInsecure }}
  certificates are not verified -> checkServiceInsecure: true
{{- end }}
  no quicker than it was -> vrrpFastDetect: false, checkServiceFastFail: false
  what a killed keepalived left on a node is removed, as by the next keepalived -> vipTakeOver: true
{{- range $name := list "vrrpInterfaceName" "vipInterfaceName" }}
{{- if not (get $root.Values.keepalived $name) }}
  {{ $name }} not given -> {{ $name }}: eth0
{{- end }}
{{- end }}
{{- if include "havip.isFormerImage" $root }}
  image {{ $root.Values.image.repository }}:{{ $root.Values.image.tag }} -> {{ include "havip.image" $root }}
{{- end }}
{{- range $kind, $amounts := $root.Values.pod.resources }}
{{- range $name, $amount := (kindIs "map" $amounts | ternary $amounts dict) }}
{{- with include "havip.tooSmallResources" (dict "root" $root "kind" $kind "name" $name "amount" $amount) }}
  pod.resources.{{ $kind }}.{{ $name }} {{ $amount }} -> {{ . }}
{{- end }}
{{- end }}
{{- end }}
The objects are called, and select their pods, as that chart's did.

Once no pod of that chart is left, write these values without `keepalived.` and with
nameOverride: {{ include "havip.name" $root }}. What that gains: a dead node is replaced in 0.3 s instead of 3.6 s,
a crashed service is noticed at once, adverts are signed, the interface is found on each node.
{{- end }}
{{- end -}}

{{/*
What works, and is worth a second look.
*/}}
{{- define "havip.warnings" -}}
{{- $values := .root.Values -}}
{{- $settings := .settings -}}
{{- $resources := include "havip.resources" .root | fromYaml -}}
{{- $namespace := include "havip.namespace" .root | fromYaml -}}
{{- $onControlPlane := or $values.pod.tolerateMasterTaints (contains "node-role.kubernetes.io/" (printf "%v %v" $values.pod.nodeSelector $values.pod.affinity)) -}}
{{- if and (eq (include "havip.kind" .root) "Deployment") (eq (int $values.pod.replicas) 1) }}

WARNING: pod.replicas is 1: if that node fails, nobody holds the VIP until Kubernetes has started the pod
on another.
{{- end }}
{{- with (default dict $resources.limits).cpu }}

WARNING: pod.resources.limits.cpu {{ . }} delays adverts when it is reached, and so may move the VIP. Leave
it out.
{{- end }}
{{- if and $onControlPlane (not .isApiVip) (contains ":10254" (toString $settings.checkServiceUrl)) }}

WARNING: the pods run on control-plane nodes, and checkServiceUrl is an ingress controller's. For the API
server set https://127.0.0.1:6443/readyz.
{{- end }}
{{- if and $values.loadBalancer.enabled (ne (int $settings.loadBalancerPort) 6443) }}
{{- range $check, $url := dict "checkService" $settings.checkServiceUrl "checkKubeApi" ($settings.checkKubeApi | ternary $settings.checkKubeApiUrl "") }}
{{- $isOwnApi := regexMatch "^https://(127\\.[0-9.]+|localhost|\\[::1\\]):6443($|[/?])" (toString $url) }}
{{- if and $isOwnApi (eq (int (get $settings (printf "%sWeight" $check))) 0) }}

WARNING: {{ $check }}Url {{ $url }} is the node's own API server, whose
end then moves the VIP although the load balancer reaches the others. Leave it out, or set a
{{ $check }}Weight below 0.
{{- end }}
{{- end }}
{{- end }}
{{- $labels := (default dict $namespace.metadata).labels | default dict -}}
{{- if and (include "havip.seesCluster" .root) (not (hasKey $labels "pod-security.kubernetes.io/enforce")) }}

Namespace {{ .root.Release.Namespace }} {{ ternary "was not there yet" "has no Pod Security level of its own" (empty $namespace) }}. If no pod appears, the cluster's forbids the host's network:
  kubectl label namespace {{ .root.Release.Namespace }} pod-security.kubernetes.io/enforce=privileged --overwrite
{{- end }}
{{- range splitList "\n" (include "havip.clashes" (dict "root" .root "isSure" false)) }}
{{- with . }}

WARNING: {{ . }}
{{- end }}
{{- end }}
{{- include "havip.groupWarning" . }}
{{- end -}}

{{/*
Nodes read a changed configuration within two minutes, each at its own time. What they must agree on
divides them meanwhile.
*/}}
{{- define "havip.groupWarning" -}}
{{- $previous := include "havip.previousConfig" .root | fromYaml -}}
{{- $settings := .settings -}}
{{- $changed := list -}}
{{- if $previous -}}
{{- range list "vipAddressCidr" "virtualRouterId" "virtualRouters" "vrrpVersion" "vrrpUnicastPeers" "election" "leaseName" "leaseNamespace" -}}
{{- if ne (get $previous . | default "" | toString) (get $settings . | default "" | toString) -}}
{{- $changed = append $changed . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $changed }}

WARNING: {{ join ", " $changed }} changed. The nodes read it within two minutes, each at its own time, and
those that have it do not understand those that have not.
{{- end }}
{{- end -}}
