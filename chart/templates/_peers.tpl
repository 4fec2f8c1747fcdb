{{/*
Peers by discovery: `vrrpUnicastPeers: auto`.
*/}}

{{/*
Whether a virtual router, on whatever node, discovers its peers: "true", or nothing.
*/}}
{{- define "havip.discoversPeers" -}}
{{- $given := list (dict "vrrpUnicastPeers" .Values.vrrpUnicastPeers) -}}
{{- $given = concat $given (default list .Values.virtualRouters) (values (default dict .Values.nodeOverrides)) -}}
{{- $isAuto := false -}}
{{- range $given -}}
{{- if . -}}
{{- if eq (include "havip.isAuto" .vrrpUnicastPeers) "true" -}}{{- $isAuto = true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $isAuto }}true{{ end }}
{{- end -}}

{{- define "havip.isAuto" -}}
{{- $texts := list -}}
{{- range kindIs "slice" . | ternary . (splitList "," (toString (default "" .))) -}}
{{- $texts = append $texts (trim (toString .)) -}}
{{- end -}}
{{- if eq (without $texts "" | join ",") "auto" }}true{{ end }}
{{- end -}}

{{/*
Name of the Service. It begins with a letter, which a release's need not.
*/}}
{{- define "havip.peersService" -}}
{{- printf "peers-%s" (include "havip.fullname" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
