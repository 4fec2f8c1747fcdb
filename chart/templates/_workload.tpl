{{/*
A pod that has just become ready has checked its node, and has yet to hear the holder; with version 2
that takes up to a second. The next one stops only then.
*/}}
{{- define "havip.pace" -}}
minReadySeconds: 5
revisionHistoryLimit: 3
{{- end -}}

{{/*
One pod after the other, each gone before its successor comes: where there are as many pods as nodes,
one more would find no node.
*/}}
{{- define "havip.updateStrategy" -}}
{{- $strategy := dict "type" "RollingUpdate" -}}
{{- range $name, $value := .Values.updateStrategy -}}{{- $_ := set $strategy $name $value -}}{{- end -}}
{{- if eq $strategy.type "RollingUpdate" -}}
{{- $pace := dict "maxUnavailable" 1 "maxSurge" 0 -}}
{{- range $name, $value := $strategy.rollingUpdate -}}{{- $_ := set $pace $name $value -}}{{- end -}}
{{- $_ := set $strategy "rollingUpdate" $pace -}}
{{- end -}}
{{- toYaml $strategy -}}
{{- end -}}
