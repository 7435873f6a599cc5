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

{{/* Where clients inside the cluster send requests. An upgrade in steps leaves one Service for each cluster and a Gateway. */}}
{{- define "mistral-serve.url" -}}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" -}}
http://{{ include "mistral-serve.fullname" . }}-gateway
{{- else -}}
{{ ternary "https" "http" .Values.tls.enabled }}://{{ include "mistral-serve.serveService" . }}:8000
{{- end -}}
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

{{/* Labels of the pods of one part: head, worker, test, preload. */}}
{{- define "mistral-serve.componentLabels" -}}
{{ include "mistral-serve.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "mistral-serve.metadata" -}}
name: {{ include "mistral-serve.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
labels:
  {{- include "mistral-serve.labels" .root | nindent 2 }}
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

{{/* A NetworkPolicy's peer: the pods of this release. */}}
{{- define "mistral-serve.ownPods" -}}
- podSelector:
    matchLabels:
      {{- include "mistral-serve.selectorLabels" . | nindent 6 }}
{{- end -}}
