{{/* Names and labels. */}}

{{- define "mistral-serve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- end -}}
{{- end -}}

{{/* The Service that KubeRay makes for Ray Serve and points at the cluster that serves. */}}
{{- define "mistral-serve.serveService" -}}
{{- printf "%s-serve-svc" (include "mistral-serve.fullname" .) -}}
{{- end -}}

{{/* Labels of the pods. They are part of what KubeRay compares: a version here would rebuild the cluster with every chart. */}}
{{- define "mistral-serve.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mistral-serve.labels" -}}
{{ include "mistral-serve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "mistral-serve.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mistral-serve.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- $device := .Values.settings.hardware.device -}}
{{- printf "%s:%s" .Values.image.repository (default (printf "%s-%s" .Chart.AppVersion $device) .Values.image.tag) -}}
{{- end -}}
{{- end -}}
