{{/* Probes. A model may load for as long as it takes: liveness asks Ray, not the model. Serve itself replaces a replica
whose engine hangs (settings.scaling.health_check_timeout_s); readiness asks HAProxy whether a replica can serve. */}}

{{- define "mistral-serve.rayProbes" -}}
startupProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 12
{{- end -}}

{{- define "mistral-serve.headProbes" -}}
{{ include "mistral-serve.rayProbes" . }}
readinessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 10
{{- end -}}

{{- define "mistral-serve.workerProbes" -}}
{{ include "mistral-serve.rayProbes" . }}
readinessProbe:
  httpGet: {path: /-/healthz, port: 8000, scheme: {{ ternary "HTTPS" "HTTP" .Values.tls.enabled }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}
