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

{{- define "mistral-serve.secretVolumes" -}}
{{- range $name, $secret := fromYaml . }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
    {{- if eq $name "tls" }}
    items:
      {{- /* HAProxy looks for the key of FILE in FILE.key. */}}
      - {key: tls.crt, path: server.pem}
      - {key: tls.key, path: server.pem.key}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.secretMounts" -}}
{{- range $name, $secret := fromYaml . }}
- name: {{ $name }}
  mountPath: /etc/mistral-serve/{{ $name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "mistral-serve.headVolumes" -}}
{{ include "mistral-serve.scratchVolumes" .Values.head.shmSize }}
{{- include "mistral-serve.secretVolumes" (include "mistral-serve.headSecrets" .) }}
{{- end -}}

{{- define "mistral-serve.headMounts" -}}
{{ include "mistral-serve.scratchMounts" . }}
{{- include "mistral-serve.secretMounts" (include "mistral-serve.headSecrets" .) }}
{{- end -}}

{{- define "mistral-serve.workerVolumes" -}}
{{ include "mistral-serve.scratchVolumes" .worker.shmSize }}
{{- include "mistral-serve.secretVolumes" (include "mistral-serve.workerSecrets" .root) }}
{{- include "mistral-serve.modelVolume" .root }}
{{- with .worker.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.workerMounts" -}}
{{ include "mistral-serve.scratchMounts" . }}
{{- include "mistral-serve.secretMounts" (include "mistral-serve.workerSecrets" .root) }}
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
