{{/* Environment of the Ray containers. */}}

{{/* The same as deploy/cluster.py, serve_environment, and what a cluster needs besides. Ray reads them when it starts. */}}
{{- define "mistral-serve.serveEnvironment" -}}
RAY_SERVE_ENABLE_HA_PROXY: "1"
RAY_SERVE_HAPROXY_BINARY_PATH: /usr/local/bin/mistral-serve-haproxy
RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S: {{ add (int .Values.drain.timeoutSeconds) 5 | quote }}
RAY_SERVE_HAPROXY_RETRY_ON: conn-failure empty-response
RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S: "5"
RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK: "0"
RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0"
RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S: "1"
RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS: "1"
RAY_USAGE_STATS_ENABLED: "0"
VLLM_NO_USAGE_STATS: "1"
VLLM_LOGGING_LEVEL: {{ dig "log" "engine_level" "warning" .Values.settings | upper }}
RAY_worker_niceness: "0"
{{- end -}}

{{/* Where HAProxy listens, in the words of its configuration; without TLS Ray's own line stays (deploy/proxy.py). */}}
{{- define "mistral-serve.tlsEnvironment" -}}
{{- if .Values.tls.enabled }}
_MISTRAL_SERVE_PROXY_BIND: "0.0.0.0:8000 ssl crt '/etc/mistral-serve/tls/server.pem' ssl-min-ver TLSv1.2 alpn h2,http/1.1"
{{- end }}
{{- end -}}

{{- define "mistral-serve.commonEnvironment" -}}
{{- range $name, $value := fromYaml (include "mistral-serve.tlsEnvironment" .) }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $name, $value := fromYaml (include "mistral-serve.serveEnvironment" .) }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
# The root file system is read-only; caches and Ray's session go to the pod's scratch volume.
- name: HOME
  value: /tmp/home
{{- end -}}

{{- define "mistral-serve.headEnvironment" -}}
{{ include "mistral-serve.commonEnvironment" . | trim }}
# The head runs no replica that could finish anything.
- name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
  value: "0"
{{- with .Values.head.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.workerEnvironment" -}}
{{- with .root -}}
{{ include "mistral-serve.commonEnvironment" . | trim }}
- name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
  value: {{ .Values.drain.timeoutSeconds | int | quote }}
{{- include "mistral-serve.modelEnvironment" . }}
{{- end }}
{{- with .worker.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where models are kept, and the token to fetch them with. */}}
{{- define "mistral-serve.modelEnvironment" -}}
{{- if ne .Values.modelCache.type "none" }}
- name: HF_HOME
  value: {{ .Values.modelCache.mountPath }}/huggingface
{{- end }}
{{- with include "mistral-serve.hfTokenSecret" . }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.hfToken.secretKey }}
{{- end }}
{{- end -}}
