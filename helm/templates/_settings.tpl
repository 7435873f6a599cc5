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

{{/* Everything that `deploy.app:build_app` gets. How many replicas run is not there but in Serve's own options of the
deployment, below: a change of an argument restarts every replica, a change of those options restarts none. */}}
{{- define "mistral-serve.args" -}}
{{- $args := deepCopy .Values.settings -}}
{{- range list "target_ongoing_requests" "upscale_delay_s" "downscale_delay_s" "look_back_s" -}}
{{- $_ := unset ($args.scaling | default dict) . -}}
{{- end -}}
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

{{/* The same as deploy/llm.py, deployment_options; the defaults are those of the settings. */}}
{{- define "mistral-serve.deployment" -}}
{{- $scaling := .Values.settings.scaling | default dict -}}
{{- $lookBack := dig "look_back_s" 10 $scaling -}}
name: model
{{- if $scaling.max_replicas }}
num_replicas: auto
autoscaling_config:
  min_replicas: {{ $scaling.min_replicas }}
  max_replicas: {{ $scaling.max_replicas }}
  initial_replicas: {{ $scaling.min_replicas }}
  target_ongoing_requests: {{ $scaling.target_ongoing_requests }}
  upscale_delay_s: {{ dig "upscale_delay_s" 10 $scaling }}
  downscale_delay_s: {{ dig "downscale_delay_s" 300 $scaling }}
  look_back_period_s: {{ $lookBack }}
  metrics_interval_s: {{ minf 2 (divf $lookBack 2) }}
{{- else }}
num_replicas: {{ $scaling.replicas | default 1 }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.ownSettings" -}}
server:
  host: 0.0.0.0
  port: 8000
scaling:
  replicas: 1
  min_replicas: null
  max_replicas: null
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
{{- end -}}
