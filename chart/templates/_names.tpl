{{/*
Whether the values have the block of keepalived-ingress-vip: "true", or nothing.
*/}}
{{- define "havip.former" -}}
{{- if .Values.keepalived }}true{{ end }}
{{- end -}}

{{/*
With that block the objects keep the names and the selectors that they have in the former chart,
so that an upgrade replaces its pods one by one, where a second Deployment would fight the first.
*/}}
{{- define "havip.name" -}}
{{- $chart := ternary "keepalived-ingress-vip" .Chart.Name (eq (include "havip.former" .) "true") -}}
{{- default $chart .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "havip.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "havip.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/*
Name of what no namespace holds. The colon, which no other name can have, keeps releases of
different namespaces apart.
*/}}
{{- define "havip.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "havip.fullname" .) -}}
{{- end -}}

{{- define "havip.selectorLabels" -}}
app.kubernetes.io/name: {{ include "havip.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "havip.labels" -}}
{{- include "havip.labelsBeside" (dict "root" . "labels" dict) -}}
{{- end -}}

{{/*
Labels of an object that has some of its own among the values. One mapping, since YAML has no key twice.
*/}}
{{- define "havip.labelsBeside" -}}
{{- $labels := .labels -}}
{{- with .root -}}
{{- $own := include "havip.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $own "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_" | trunc 63) -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "havip" -}}
{{- mergeOverwrite (deepCopy (default dict .Values.commonLabels)) (default dict $labels) $own | toYaml -}}
{{- end -}}
{{- end -}}

{{/*
Labels of the pods: not the chart's version, with which they would be replaced for no other reason.
*/}}
{{- define "havip.podLabels" -}}
{{- $labels := dict -}}
{{- range $given := list (default dict .Values.commonLabels) (default dict .Values.pod.labels) (include "havip.selectorLabels" . | fromYaml) (dict "app.kubernetes.io/part-of" "havip") -}}
{{- $labels = mergeOverwrite $labels $given -}}
{{- end -}}
{{- toYaml $labels -}}
{{- end -}}

{{- define "havip.kind" -}}
{{- ternary "DaemonSet" "Deployment" (eq (lower .Values.kind) "daemonset") -}}
{{- end -}}

{{- define "havip.serviceAccountName" -}}
{{- default (include "havip.fullname" .) (default dict .Values.serviceAccount).name -}}
{{- end -}}

{{/*
Values that were written for the former chart name its image, and its version as a tag.
*/}}
{{- define "havip.image" -}}
{{- $repository := .Values.image.repository -}}
{{- $tag := .Values.image.tag -}}
{{- if eq (include "havip.isFormerImage" .) "true" -}}
{{- $repository = "localhost/havip" -}}
{{- $tag = "" -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $tag) -}}
{{- end -}}
{{- end -}}

{{- define "havip.isFormerImage" -}}
{{- $isFormerTag := and (include "havip.former" .) (regexMatch "^v0\\.1\\." (default "" .Values.image.tag)) -}}
{{- if eq .Values.image.repository "janeczku/keepalived-ingress-vip" -}}true
{{- else if and $isFormerTag (eq .Values.image.repository "localhost/havip") -}}true
{{- end -}}
{{- end -}}

{{/*
The release's namespace as the cluster knows it, or an empty mapping: it is not there yet, or the
chart is rendered without a cluster.
*/}}
{{- define "havip.namespace" -}}
{{- lookup "v1" "Namespace" "" .Release.Namespace | toYaml -}}
{{- end -}}

{{/*
Whether the chart sees the cluster: "true", or nothing. Whoever creates a ClusterRole may also read
a namespace that every cluster has; others can be trusted with their own only, unless they are about
to create it.
*/}}
{{- define "havip.seesCluster" -}}
{{- $isOwnThere := and (not .Values.rbac.create) (lookup "v1" "Namespace" "" .Release.Namespace) -}}
{{- if or $isOwnThere (lookup "v1" "Namespace" "" "kube-system") }}true{{ end }}
{{- end -}}
