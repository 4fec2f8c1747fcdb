{{/*
The pod of both kinds of workload.

The node's own network, since that is where the VIP is. Probes go to the loopback by HTTP, and never
by exec: starting Python in the container for each would cost more than the daemon itself. No preStop
hook is needed: on SIGTERM the daemon hands the VIP over and ends by itself.
*/}}
{{- define "havip.podTemplate" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- $secret := has (include "havip.authMethod" .) (list "password" "hmac") -}}
{{- $port := include "havip.port" (dict "settings" $settings) | int -}}
{{- $metricsPort := include "havip.metricsPort" . -}}
metadata:
  labels:
    {{- include "havip.podLabels" . | nindent 4 }}
  annotations:
    {{- /* Running pods follow every other setting, and keys too: only these need another pod. As JSON,
    which `havip manifest` writes alike. */}}
    {{- $atStart := pick $settings "logFormat" "debug" }}
    {{- range $name, $value := $settings }}{{ if hasPrefix "loadBalancer" $name }}{{ $_ := set $atStart $name $value }}{{ end }}{{ end }}
    {{- if .Values.loadBalancer.enabled }}{{ $_ := set $atStart "binds" (include "havip.balancerBinds" $settings | fromJsonArray) }}{{ end }}
    {{- $checksum := dict "checksum/read-at-start" ($atStart | toJson | sha256sum) }}
    {{- mergeOverwrite (deepCopy (default dict .Values.pod.annotations)) $checksum | toYaml | nindent 4 }}
spec:
  {{- include "havip.placement" (dict "root" . "affinity" (include "havip.affinity" . | fromYaml) "hasToken" (include "havip.needsToken" .)) | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "havip.gracePeriod" . }}
  {{- $environment := include "havip.environment" (dict "root" . "settings" $settings "metricsPort" $metricsPort) | trim }}
  {{- $mounts := include "havip.mounts" . | trim }}
  {{- if .Values.loadBalancer.enabled }}
  initContainers:
    - name: load-balancer
      image: {{ include "havip.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [load-balancer]
      env:
        {{- $environment | nindent 8 }}
      resources:
        {{- include "havip.resources" . | nindent 8 }}
      securityContext:
        {{- include "havip.containerSecurity" list | nindent 8 }}
      volumeMounts:
        {{- $mounts | nindent 8 }}
    - {{ include "havip.balancerContainer" (dict "root" . "name" "haproxy-check" "flags" "-c") | nindent 6 | trim }}
  {{- end }}
  containers:
    - name: havip
      image: {{ include "havip.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [run]
      env:
        {{- $environment | nindent 8 }}
      {{- with $metricsPort }}
      ports:
        - name: metrics
          containerPort: {{ . }}
          hostPort: {{ . }}
          protocol: TCP
      {{- end }}
      {{- /* Until it answers, a pod is not killed for being slow; a wrong configuration ends it. */}}
      startupProbe:
        {{- include "havip.httpGet" (dict "settings" $settings "path" "/healthz" "port" $port) | nindent 8 }}
        periodSeconds: 1
        timeoutSeconds: 3
        failureThreshold: 60
      livenessProbe:
        {{- include "havip.httpGet" (dict "settings" $settings "path" "/healthz" "port" $port) | nindent 8 }}
        {{- with .Values.pod.livenessProbe }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      readinessProbe:
        {{- include "havip.httpGet" (dict "settings" $settings "path" "/readyz" "port" $port) | nindent 8 }}
        {{- with .Values.pod.readinessProbe }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        {{- include "havip.resources" . | nindent 8 }}
      securityContext:
        {{- include "havip.containerSecurity" (ternary (list "NET_ADMIN" "NET_RAW" "SYS_NICE") (list "NET_ADMIN" "NET_RAW") .Values.pod.realtime) | nindent 8 }}
      volumeMounts:
        {{- $mounts | nindent 8 }}
    {{- if .Values.loadBalancer.enabled }}
    - {{ include "havip.balancerContainer" (dict "root" . "name" "haproxy" "flags" "-W, -db") | nindent 6 | trim }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "havip.fullname" . | quote }}
    {{- if $secret }}
    {{- $file := ternary "password" "hmac-keys" (eq (include "havip.authMethod" .) "password") }}
    - name: auth
      secret:
        secretName: {{ include "havip.secretName" . | quote }}
        defaultMode: 0400
        items:
          - key: {{ $file }}
            path: {{ $file }}
    {{- end }}
    {{- if .Values.loadBalancer.enabled }}
    - name: haproxy
      emptyDir: {}
    {{- end }}
    {{- if include "havip.keepsState" . }}
    {{- /* On the node, so that the next pod there knows what the API has told this one. */}}
    - name: state
      hostPath:
        path: {{ printf "/var/lib/havip/%s/%s" .Release.Namespace (include "havip.fullname" .) | quote }}
        type: DirectoryOrCreate
    {{- end }}
    {{- with .Values.pod.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/*
What havip's containers see. Whole directories: the kubelet does not follow changes of a file under
subPath.
*/}}
{{- define "havip.mounts" -}}
- name: config
  mountPath: /etc/havip
  readOnly: true
{{- if has (include "havip.authMethod" .) (list "password" "hmac") }}
- name: auth
  mountPath: {{ include "havip.authDirectory" . }}
  readOnly: true
{{- end }}
{{- if .Values.loadBalancer.enabled }}
- name: haproxy
  mountPath: {{ include "havip.balancerDirectory" . }}
{{- end }}
{{- if include "havip.keepsState" . }}
- name: state
  mountPath: /var/lib/havip
{{- end }}
{{- with .Values.pod.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Where pods run, and as what: those of the workload, and that of `helm test`, which has to be on the
same network, with an `affinity` of its own.
*/}}
{{- define "havip.placement" -}}
{{- $pod := .root.Values.pod -}}
hostNetwork: true
{{- /* Without it, a pod in the host's network does not find the cluster's names. */}}
dnsPolicy: ClusterFirstWithHostNet
{{- /* A variable for each port of each Service: some begin with HAVIP_ if one is called havip. */}}
enableServiceLinks: false
serviceAccountName: {{ include "havip.serviceAccountName" .root | quote }}
automountServiceAccountToken: {{ .hasToken }}
{{- with $pod.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $pod.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "havip.tolerations" .root | fromYamlArray }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The values' affinity; and of a Deployment, that its pods do not share a node. Those of another
release may.
*/}}
{{- define "havip.affinity" -}}
{{- $affinity := deepCopy (default dict .Values.pod.affinity) -}}
{{- if eq (include "havip.kind" .) "Deployment" -}}
{{- $apart := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "havip.selectorLabels" . | fromYaml)) -}}
{{- $anti := default dict $affinity.podAntiAffinity -}}
{{- $required := append (default list $anti.requiredDuringSchedulingIgnoredDuringExecution) $apart -}}
{{- $_ := set $anti "requiredDuringSchedulingIgnoredDuringExecution" $required -}}
{{- $_ := set $affinity "podAntiAffinity" $anti -}}
{{- end -}}
{{- toYaml $affinity -}}
{{- end -}}

{{- define "havip.tolerations" -}}
{{- $tolerations := default list .Values.pod.tolerations -}}
{{- if .Values.pod.tolerateMasterTaints -}}
{{- range list "control-plane" "master" "controlplane" "etcd" -}}
{{- $tolerations = append $tolerations (dict "key" (printf "node-role.kubernetes.io/%s" .) "operator" "Exists") -}}
{{- end -}}
{{- end -}}
{{- toYaml $tolerations -}}
{{- end -}}

{{- define "havip.environment" -}}
{{- $values := .root.Values -}}
{{- $given := list -}}
{{- range $values.pod.extraEnv -}}{{- $given = append $given .name -}}{{- end -}}
{{- if not (has "HAVIP_NODE_NAME" $given) }}
- name: HAVIP_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- end }}
{{- if and .metricsPort (include "havip.isOnLoopback" .settings) }}
- name: HOST_IP
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
- name: HAVIP_METRICS_LISTEN
  value: "[$(HOST_IP)]:{{ .metricsPort }}"
{{- end }}
{{- with $values.pod.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "havip.httpGet" -}}
httpGet:
  host: {{ include "havip.probeHost" (dict "settings" .settings) | quote }}
  port: {{ .port }}
  path: {{ .path }}
{{- end -}}

{{/*
Root, since a pod has no other way to capabilities, and of root nothing but these.
*/}}
{{- define "havip.containerSecurity" -}}
runAsUser: 0
runAsNonRoot: false
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with . }}
  add: [{{ join ", " . }}]
  {{- end }}
{{- end -}}

{{/*
Port of the metrics on an address that others reach, or nothing.
*/}}
{{- define "havip.metricsPort" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- if or .Values.metrics.enabled (not (include "havip.isOnLoopback" $settings)) -}}
{{ include "havip.port" (dict "settings" $settings) }}
{{- end -}}
{{- end -}}

{{- define "havip.isOnLoopback" -}}
{{- if regexMatch "^(127\\.|\\[::1\\]:)" .listen }}true{{ end -}}
{{- end -}}

{{/*
The token goes into the pod only if there is a use for it, on whichever node: the API check, the
election, the discovery of peers or of API servers, what Kubernetes shows, or the watch of the node.
*/}}
{{- define "havip.needsToken" -}}
{{- $ofAll := include "havip.settings" . | fromYaml -}}
{{- $needs := eq (include "havip.keepsState" .) "true" -}}
{{- range $override := prepend (values (default dict $ofAll.nodeOverrides)) dict -}}
{{- $settings := include "havip.onNode" (dict "settings" $ofAll "override" $override) | fromYaml -}}
{{- $files := printf "%v %v" $settings.checkKubeApiTokenFile $settings.checkKubeApiCaFile -}}
{{- $needs = or $needs (contains "/run/secrets/kubernetes.io/serviceaccount/" (toString $settings.loadBalancerCaFile)) -}}
{{- $isThere := or (eq $settings.checkKubeApiUrl "auto") (contains "/run/secrets/kubernetes.io/serviceaccount/" $files) -}}
{{- $needs = or $needs (and $settings.checkKubeApi $isThere) (eq $settings.election "lease") -}}
{{- $needs = or $needs $settings.kubeHolderLease $settings.kubeEvents $settings.kubeHolderLabel $settings.kubeNodeWatch -}}
{{- end -}}
{{- $needs -}}
{{- end -}}

{{/*
What the API check asks with the pods' token, on whichever node.
*/}}
{{- define "havip.healthPaths" -}}
{{- $ofAll := include "havip.settings" . | fromYaml -}}
{{- $paths := list -}}
{{- range $override := prepend (values (default dict $ofAll.nodeOverrides)) dict -}}
{{- $settings := include "havip.onNode" (dict "settings" $ofAll "override" $override) | fromYaml -}}
{{- $url := toString $settings.checkKubeApiUrl -}}
{{- $isOurs := or (eq $url "auto") (contains "/run/secrets/kubernetes.io/serviceaccount/" (toString $settings.checkKubeApiTokenFile)) -}}
{{- if and $settings.checkKubeApi $isOurs -}}
{{- $path := ternary "" (urlParse $url).path (eq $url "auto") -}}
{{- $paths = append $paths (has $path (list "" "/") | ternary "/readyz" $path) -}}
{{- end -}}
{{- end -}}
{{- uniq $paths | sortAlpha | toYaml -}}
{{- end -}}

{{/*
A leaver waits for its successor for two adverts and a skew, at most 20 s; with a Lease, as long as it
may hold without the API server.
*/}}
{{- define "havip.gracePeriod" -}}
{{- $settings := include "havip.settings" . | fromYaml -}}
{{- $longest := 0 -}}
{{- range $prefix, $router := include "havip.routers" $settings | fromYaml -}}
{{- $longest = maxf $longest (default 1 $router.vrrpAdvertInterval) -}}
{{- end -}}
{{- $needs := mulf 3 $longest -}}
{{- if eq $settings.election "lease" -}}
{{- $needs = addf 2 $settings.leaseRenewDeadline -}}
{{- end -}}
{{- .Values.pod.terminationGracePeriodSeconds | default (ceil $needs | max 10 | min 30) | int -}}
{{- end -}}

{{/*
Resources of the pods. With the former chart's values come those of a small C program.
*/}}
{{- define "havip.resources" -}}
{{- $resources := dict -}}
{{- range $kind, $amounts := .Values.pod.resources -}}
{{- if kindIs "map" $amounts -}}
{{- $kept := dict -}}
{{- range $name, $amount := $amounts -}}
{{- $tooSmall := include "havip.tooSmallResources" (dict "root" $ "kind" $kind "name" $name "amount" $amount) -}}
{{- if $tooSmall -}}
{{- if ne $tooSmall "none" -}}{{- $_ := set $kept $name $tooSmall -}}{{- end -}}
{{- else if not (has $amount (list nil "")) -}}
{{- $_ := set $kept $name $amount -}}
{{- end -}}
{{- end -}}
{{- if $kept -}}{{- $_ := set $resources $kind $kept -}}{{- end -}}
{{- else if $amounts -}}
{{- $_ := set $resources $kind $amounts -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/*
What replaces an amount of the former chart's: an amount, "none", or nothing if it stays.
*/}}
{{- define "havip.tooSmallResources" -}}
{{- $amount := printf "%s %s %v" .kind .name .amount -}}
{{- if include "havip.former" .root -}}
{{- if has $amount (list "requests memory 6Mi" "requests memory 10Mi") -}}64Mi
{{- else if has $amount (list "limits memory 10Mi" "limits memory 12Mi") -}}128Mi
{{- else if eq $amount "limits cpu 80m" -}}none
{{- end -}}
{{- end -}}
{{- end -}}
