{{/* Pod templates of the Ray cluster. Whatever is written here is compared by KubeRay: see docs/helm-changes.md. */}}

{{- define "mistral-serve.headPod" -}}
metadata:
  labels:
    {{- include "mistral-serve.selectorLabels" . | nindent 4 }}
spec:
  {{- include "mistral-serve.podSpec" (dict "root" . "pod" .Values.head) | nindent 2 }}
  automountServiceAccountToken: {{ .Values.autoscaler.enabled }}
  containers:
    - name: ray-head
      {{- include "mistral-serve.container" . | nindent 6 }}
      resources:
        {{- toYaml .Values.head.resources | nindent 8 }}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        - {name: metrics, containerPort: 8080}
        - {name: serve, containerPort: 8000}
      env:
        {{- include "mistral-serve.headEnvironment" . | trim | nindent 8 }}
      volumeMounts:
        {{- include "mistral-serve.headMounts" . | nindent 8 }}
      {{- include "mistral-serve.headProbes" . | nindent 6 }}
  volumes:
    {{- include "mistral-serve.headVolumes" . | nindent 4 }}
{{- end -}}

{{- define "mistral-serve.workerPod" -}}
{{- with .root -}}
metadata:
  labels:
    {{- include "mistral-serve.selectorLabels" . | nindent 4 }}
{{- end }}
spec:
  {{- include "mistral-serve.podSpec" (dict "root" .root "pod" .worker) | nindent 2 }}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ include "mistral-serve.graceSeconds" .root }}
  containers:
    - name: ray-worker
      {{- include "mistral-serve.container" .root | nindent 6 }}
      resources:
        {{- include "mistral-serve.workerResources" . | nindent 8 }}
      ports:
        - {name: metrics, containerPort: 8080}
        - {name: serve, containerPort: 8000}
      env:
        {{- include "mistral-serve.workerEnvironment" .root | trim | nindent 8 }}
        {{- with .worker.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumeMounts:
        {{- include "mistral-serve.workerMounts" .root | nindent 8 }}
      {{- include "mistral-serve.workerProbes" .root | nindent 6 }}
      lifecycle:
        preStop:
          exec:
            command: ["sleep", {{ .root.Values.drain.preStopSleepSeconds | quote }}]
  volumes:
    {{- include "mistral-serve.workerVolumes" . | nindent 4 }}
{{- end -}}

{{/* What head and workers share. */}}
{{- define "mistral-serve.podSpec" -}}
serviceAccountName: {{ include "mistral-serve.serviceAccount" .root }}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.container" -}}
image: {{ include "mistral-serve.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end -}}

{{- define "mistral-serve.workerResources" -}}
{{- $resources := deepCopy .worker.resources -}}
{{- $gpus := include "mistral-serve.gpus" .root -}}
{{- if ne $gpus "0" -}}
{{- range list "requests" "limits" -}}
{{- $_ := set $resources . (set (get $resources . | default dict) $.worker.gpuResource $gpus) -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
