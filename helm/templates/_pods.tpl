{{/* Pod templates of the Ray cluster. Whatever is written here is compared by KubeRay: see docs/helm-changes.md. */}}

{{- define "mistral-serve.headPod" -}}
{{- include "mistral-serve.podMetadata" (dict "root" . "component" "head" "annotations" .Values.head.podAnnotations) }}
spec:
  {{- include "mistral-serve.podSpec" (dict "root" . "pod" .Values.head "isHead" true) | nindent 2 }}
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
        {{- include "mistral-serve.headEnvironment" . | nindent 8 }}
      volumeMounts:
        {{- include "mistral-serve.headMounts" . | nindent 8 }}
      {{- include "mistral-serve.headProbes" . | nindent 6 }}
  volumes:
    {{- include "mistral-serve.headVolumes" . | nindent 4 }}
{{- end -}}

{{- define "mistral-serve.workerPod" -}}
{{- include "mistral-serve.workerMetadata" . }}
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
        {{- include "mistral-serve.workerEnvironment" . | nindent 8 }}
      volumeMounts:
        {{- include "mistral-serve.workerMounts" . | nindent 8 }}
      {{- include "mistral-serve.workerProbes" .root | nindent 6 }}
      lifecycle:
        preStop:
          exec:
            command: ["sleep", {{ .root.Values.drain.preStopSleepSeconds | quote }}]
  volumes:
    {{- include "mistral-serve.workerVolumes" . | nindent 4 }}
{{- end -}}

{{- define "mistral-serve.podMetadata" -}}
metadata:
  labels:
    {{- include "mistral-serve.componentLabels" . | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Without Ray's autoscaler the number of pods is fixed, and KubeRay ignores a change of it; the annotation makes it one
that starts a new cluster. */}}
{{- define "mistral-serve.workerMetadata" -}}
{{- $annotations := deepCopy .worker.podAnnotations -}}
{{- if not .root.Values.autoscaler.enabled -}}
{{- $_ := set $annotations "mistral-serve/replicas" (include "mistral-serve.leastReplicas" .root) -}}
{{- end -}}
{{- include "mistral-serve.podMetadata" (dict "root" .root "component" "worker" "annotations" $annotations) }}
{{- end -}}

{{/* What head, workers and the preload job share. */}}
{{- define "mistral-serve.podSpec" -}}
{{- /* The chart's own account goes with the release. KubeRay makes its job that cleans Redis up afterwards of the head pod, and
Ray's autoscaler an account of its own where the head names none. */}}
{{- if not (and .isHead .root.Values.serviceAccount.create) }}
serviceAccountName: {{ include "mistral-serve.serviceAccount" .root }}
{{- end }}
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
{{- with .pod.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - labelSelector:
      matchLabels:
        {{- include "mistral-serve.componentLabels" (dict "root" $.root "component" "worker") | nindent 8 }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pod.runtimeClassName }}
runtimeClassName: {{ . }}
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
