{{/* Secrets: named by the user, or made by the chart of a value. Nothing of them is ever written elsewhere. */}}

{{- define "mistral-serve.hfTokenSecret" -}}
{{- .Values.hfToken.existingSecret | default (ternary (printf "%s-hf-token" (include "mistral-serve.fullname" .)) "" (ne .Values.hfToken.value "")) -}}
{{- end -}}

{{- define "mistral-serve.keysSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-keys" (include "mistral-serve.fullname" .)) -}}
{{- end -}}

{{/* Secrets that are mounted as directories, NAME: SECRET. HAProxy runs on the head too, and so needs its certificate. */}}
{{- define "mistral-serve.headSecrets" -}}
{{- if .Values.tls.enabled }}
tls: {{ .Values.tls.existingSecret }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.workerSecrets" -}}
{{- include "mistral-serve.headSecrets" . }}
{{- if .Values.auth.enabled }}
keys: {{ include "mistral-serve.keysSecret" . }}
{{- end }}
{{- with .Values.quotasRedis.existingSecret }}
quotas-redis: {{ . }}
{{- end }}
{{- with .Values.moderation.existingSecret }}
moderation: {{ . }}
{{- end }}
{{- end -}}
