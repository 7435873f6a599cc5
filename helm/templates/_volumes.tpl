{{/* Volumes and mounts of the pods. */}}

{{- define "mistral-serve.headVolumes" -}}
{{ include "mistral-serve.scratchVolumes" .Values.head.shmSize }}
{{- end -}}

{{- define "mistral-serve.workerVolumes" -}}
{{ include "mistral-serve.scratchVolumes" .worker.shmSize }}
{{- with .root.Values }}
{{- if .auth.enabled }}
- name: keys
  secret:
    secretName: {{ .auth.existingSecret }}
{{- end }}
{{- if .tls.enabled }}
- name: tls
  secret:
    secretName: {{ .tls.existingSecret }}
{{- end }}
{{- if eq .modelCache.type "emptyDir" }}
- name: models
  emptyDir: {}
{{- end }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.scratchVolumes" -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ . }}
{{- end -}}

{{- define "mistral-serve.headMounts" -}}
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- end -}}

{{- define "mistral-serve.workerMounts" -}}
{{ include "mistral-serve.headMounts" . }}
{{- if .Values.auth.enabled }}
- name: keys
  mountPath: /etc/mistral-serve/keys
  readOnly: true
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/mistral-serve/tls
  readOnly: true
{{- end }}
{{- if ne .Values.modelCache.type "none" }}
- name: models
  mountPath: {{ .Values.modelCache.mountPath }}
{{- end }}
{{- end -}}
