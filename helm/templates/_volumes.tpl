{{/* Volumes of the pods, and where they are mounted. */}}

{{- define "mistral-serve.scratchVolumes" -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ . }}
{{- end -}}

{{- define "mistral-serve.scratchMounts" -}}
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- end -}}

{{- define "mistral-serve.workerVolumes" -}}
{{ include "mistral-serve.scratchVolumes" .worker.shmSize }}
{{- range $name, $secret := fromYaml (include "mistral-serve.mountedSecrets" .root) }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- include "mistral-serve.modelVolume" .root }}
{{- with .worker.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.workerMounts" -}}
{{ include "mistral-serve.scratchMounts" . }}
{{- range $name, $secret := fromYaml (include "mistral-serve.mountedSecrets" .root) }}
- name: {{ $name }}
  mountPath: /etc/mistral-serve/{{ $name }}
  readOnly: true
{{- end }}
{{- include "mistral-serve.modelMount" .root }}
{{- with .worker.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.modelVolume" -}}
{{- with .Values.modelCache }}
{{- if ne .type "none" }}
- name: models
  {{- if eq .type "emptyDir" }}
  emptyDir:
    sizeLimit: {{ .size }}
  {{- else if eq .type "pvc" }}
  persistentVolumeClaim:
    claimName: {{ include "mistral-serve.fullname" $ }}-models
  {{- else if eq .type "existingClaim" }}
  persistentVolumeClaim:
    claimName: {{ .existingClaim }}
  {{- else if eq .type "image" }}
  image:
    reference: {{ .image }}
    pullPolicy: {{ $.Values.image.pullPolicy }}
  {{- else }}
  hostPath:
    path: {{ .hostPath }}
    type: Directory
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.modelMount" -}}
{{- if ne .Values.modelCache.type "none" }}
- name: models
  mountPath: {{ .Values.modelCache.mountPath }}
  {{- if eq .Values.modelCache.type "image" }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end -}}
