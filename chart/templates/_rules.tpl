{{/*
The alerts. `job` keeps releases apart; a virtual router is its VRID, since the interface's name, of
which the label `router` has the rest, may differ between nodes.
*/}}
{{- define "havip.alerts" -}}
{{- $who := printf "%s/%s" .Release.Namespace (include "havip.fullname" .) -}}
{{- $job := default $who .Values.metrics.prometheusRule.job -}}
{{- $of := printf "{job=%q}" $job -}}
{{- $holders := printf "sum by (vrid) (label_replace(havip_router_holding%s, \"vrid\", \"$1\", \"router\", \".*/(.*)\"))" $of -}}
{{- $fit := printf "sum by (vrid) (label_replace(havip_router_may_hold%s, \"vrid\", \"$1\", \"router\", \".*/(.*)\"))" $of -}}
noHolder:
  alert: HavipNoHolder
  expr: {{ printf "%s == 0 or absent(havip_router_holding%s)" $holders $of | quote }}
  for: 1m
  severity: critical
  summary: {{ printf "%s: nobody holds the virtual IP%s." $who `{{ with $labels.vrid }} of VRID {{ . }}{{ end }}` | quote }}
  description: >-
    No node has the address, or no pod answers Prometheus. `havip status` in each pod says what
    keeps its node from holding.
twoHolders:
  alert: HavipTwoHolders
  expr: {{ printf "%s > 1" $holders | quote }}
  for: 2m
  severity: critical
  summary: {{ printf "%s: %s." $who `{{ $value }} nodes hold the virtual IP of VRID {{ $labels.vrid }}` | quote }}
  description: >-
    The nodes do not hear each other: look for a filter of protocol 112 between them, for keys or
    versions that differ, and with `havip watch` for what is on the wire.
flapping:
  alert: HavipFlapping
  expr: {{ printf "sum by (vrid) (label_replace(increase(havip_moves_total{job=%q, state=\"active\"}[15m]), \"vrid\", \"$1\", \"router\", \".*/(.*)\")) > 4" $job | quote }}
  for: 0m
  severity: warning
  summary: {{ printf "%s: %s." $who `the virtual IP of VRID {{ $labels.vrid }} has moved {{ $value | humanize }} times in 15 minutes` | quote }}
  description: >-
    The label `reason` of havip_moves_total says why. Each move ends the connections of its clients.
checkFailing:
  alert: HavipCheckFailing
  expr: {{ printf "havip_check_healthy%s == 0" $of | quote }}
  for: 5m
  severity: warning
  summary: {{ printf "%s: %s." $who `the {{ $labels.check }} check fails on {{ $labels.node }}` | quote }}
  description: >-
    As long as it does, the node does not hold the virtual IP, or with less priority. `havip status`
    in its pod says what the last answer was.
blocked:
  alert: HavipBlocked
  expr: {{ printf "havip_router_blocked{job=%q, reason!~\"check_.*\"} == 1" $job | quote }}
  for: 1m
  severity: warning
  summary: {{ printf "%s: %s." $who `{{ $labels.node }} may not hold the virtual IP of {{ $labels.router }}: {{ $labels.reason }}` | quote }}
  description: >-
    address_in_use, address_occupied and vrid_collision mean that somebody else uses the address or
    the VRID; the log of the pod names them.
noSpare:
  alert: HavipNoSpare
  expr: {{ printf "%s == 1" $fit | quote }}
  for: 10m
  severity: warning
  summary: {{ printf "%s: %s." $who `only one node could hold the virtual IP of VRID {{ $labels.vrid }}` | quote }}
  description: >-
    If it fails, nobody holds the address. Add a node, or mend what keeps the others from it.
{{- if .Values.loadBalancer.enabled }}
{{- /* One that is drained fails for as long as its connections last. */}}
backendFailing:
  alert: HavipBackendFailing
  expr: {{ printf "count by (backend) (havip_balancer_backend_healthy%s == 0 and havip_balancer_backend_listed%s == 1)" $of $of | quote }}
  for: 5m
  severity: warning
  summary: {{ printf "%s: %s." $who `backend {{ $labels.backend }} fails the checks of {{ $value }} balancers` | quote }}
  description: >-
    It gets no connections there; the others get them. `havip status` in a pod says how its last
    check ended.
balancerDown:
  alert: HavipBalancerDown
  expr: {{ printf "max by (job) (havip_check_healthy{job=%q, check=\"balancer\"}) == 0" $job | quote }}
  for: 1m
  severity: critical
  summary: {{ printf "%s: on no node does the balancer work." $who | quote }}
  description: >-
    HAProxy does not run, or has no healthy backend, so that nobody is served. `havip status` in
    each pod says which of them, and how the backends' last checks ended.
balancerFull:
  alert: HavipBalancerFull
  expr: {{ printf "havip_balancer_full%s == 1" $of | quote }}
  for: 1m
  severity: warning
  summary: {{ printf "%s: %s." $who `the balancer on {{ $labels.node }} is full, and new clients wait` | quote }}
  description: >-
    As many connections are open as loadBalancerMaxConnections allows. Raise it, or find the clients
    that leave theirs open.
{{- end }}
{{- end -}}

{{/*
What a PrometheusRule and promtool both call groups.
*/}}
{{- define "havip.ruleGroups" -}}
{{- $alerts := include "havip.alerts" . | fromYaml -}}
{{- $rules := list -}}
{{- range $name := list "noHolder" "twoHolders" "flapping" "checkFailing" "blocked" "noSpare" "backendFailing" "balancerDown" "balancerFull" -}}
{{- $alert := get $alerts $name -}}
{{- if and $alert (get $.Values.metrics.prometheusRule.alerts $name) -}}
{{- $labels := dict "severity" $alert.severity -}}
{{- range $label, $value := $.Values.metrics.prometheusRule.alertLabels -}}{{- $_ := set $labels $label $value -}}{{- end -}}
{{- $annotations := pick $alert "summary" "description" -}}
{{- $rules = append $rules (dict "alert" $alert.alert "expr" $alert.expr "for" (get $alert "for") "labels" $labels "annotations" $annotations) -}}
{{- end -}}
{{- end -}}
{{- list (dict "name" (printf "%s-%s" .Release.Namespace (include "havip.fullname" .)) "rules" $rules) | toYaml -}}
{{- end -}}
