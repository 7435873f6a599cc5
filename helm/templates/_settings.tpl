{{/* The application's settings: what the user gives under `settings`, and what the chart itself decides. */}}

{{- define "mistral-serve.graceSeconds" -}}
{{- $least := add .Values.drain.timeoutSeconds .Values.drain.preStopSleepSeconds -}}
{{- .Values.drain.terminationGracePeriodSeconds | default (add $least 30) | int -}}
{{- end -}}

{{/* Replicas that always run: the fixed number, or the lower bound of autoscaling. */}}
{{- define "mistral-serve.leastReplicas" -}}
{{- $scaling := .Values.settings.scaling | default dict -}}
{{- $scaling.min_replicas | default $scaling.replicas | default 1 | int -}}
{{- end -}}

{{/* GPUs of one replica; a CPU replica has none. */}}
{{- define "mistral-serve.gpus" -}}
{{- if eq .Values.settings.hardware.device "gpu" -}}
{{- dig "vllm" "tensor_parallel_size" 1 .Values.settings | int -}}
{{- else -}}
0
{{- end -}}
{{- end -}}

{{/* CPUs that one replica takes from Ray: exactly one replica fits on a worker pod. */}}
{{- define "mistral-serve.rayCpus" -}}
{{- if eq .Values.settings.hardware.device "gpu" -}}
{{- include "mistral-serve.gpus" . -}}
{{- else -}}
{{- .Values.settings.hardware.cores_per_replica | int -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.keysFile" -}}
/etc/mistral-serve/keys/{{ .Values.auth.secretKey }}
{{- end -}}

{{/* Everything that `deploy.app:build_app` gets. Scaling is written out, so that no profile in the image says otherwise. */}}
{{- define "mistral-serve.args" -}}
{{- $args := deepCopy .Values.settings -}}
{{- range $group, $values := fromYaml (include "mistral-serve.ownSettings" .) -}}
{{- $all := get $args $group | default dict -}}
{{- range $name, $value := $values -}}{{- $_ := set $all $name $value -}}{{- end -}}
{{- $_ := set $args $group $all -}}
{{- end -}}
{{- if ne .Values.modelCache.type "none" -}}
{{- $_ := set $args "cache_dir" (printf "%s/mistral-serve" .Values.modelCache.mountPath) -}}
{{- end -}}
{{- toYaml $args -}}
{{- end -}}

{{- define "mistral-serve.ownSettings" -}}
{{- $scaling := .Values.settings.scaling | default dict -}}
server:
  host: 0.0.0.0
  port: 8000
scaling:
  {{- if $scaling.max_replicas }}
  replicas: null
  {{- else }}
  replicas: {{ $scaling.replicas | default 1 }}
  min_replicas: null
  max_replicas: null
  {{- end }}
  drain_timeout_s: {{ .Values.drain.timeoutSeconds }}
vllm:
  tensor_parallel_size: {{ dig "vllm" "tensor_parallel_size" 1 .Values.settings }}
gateway:
  {{- if .Values.auth.enabled }}
  keys: "on"
  keys_file: {{ include "mistral-serve.keysFile" . }}
  {{- else }}
  keys: "off"
  {{- end }}
{{- if .Values.quotasRedis.existingSecret }}
quotas:
  redis_password_file: /etc/mistral-serve/quotas-redis/{{ .Values.quotasRedis.secretKey }}
{{- end }}
{{- if .Values.moderation.existingSecret }}
guard:
  moderation_key_file: /etc/mistral-serve/moderation/{{ .Values.moderation.secretKey }}
{{- end }}
{{- if .Values.tls.enabled }}
tls:
  certificate_file: /etc/mistral-serve/tls/server.pem
  key_file: /etc/mistral-serve/tls/server.pem.key
{{- end }}
{{- end -}}
