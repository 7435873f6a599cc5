{{/* Parts of the RayService: Serve's configuration, the autoscaler, a worker group. */}}

{{- define "mistral-serve.serveConfig" -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
applications:
  - name: mistral-serve
    route_prefix: /
    import_path: deploy.app:build_app
    deployments:
      - {{ include "mistral-serve.deployment" . | nindent 8 | trim }}
    args:
      {{- include "mistral-serve.args" . | nindent 6 }}
{{- end -}}

{{- define "mistral-serve.deletionDelaySeconds" -}}
{{- $delay := .Values.upgrade.deletionDelaySeconds -}}
{{- kindIs "invalid" $delay | ternary (add .Values.drain.timeoutSeconds 60) $delay | int -}}
{{- end -}}

{{- define "mistral-serve.upgradeStrategy" -}}
type: {{ .Values.upgrade.strategy | quote }}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" }}
clusterUpgradeOptions:
  gatewayClassName: {{ .Values.upgrade.gatewayClassName }}
  stepSizePercent: {{ .Values.upgrade.stepSizePercent }}
  intervalSeconds: {{ .Values.upgrade.intervalSeconds }}
  maxSurgePercent: {{ .Values.upgrade.maxSurgePercent }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.serveServiceSpec" -}}
metadata:
  name: {{ include "mistral-serve.serveService" . }}
  {{- with .Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .Values.service.type }}
  ports:
    - {name: serve, port: 8000, targetPort: 8000}
{{- end -}}

{{- define "mistral-serve.gcsFaultTolerance" -}}
{{- with .Values.gcsFaultTolerance -}}
redisAddress: {{ .redisAddress | quote }}
{{- with .redisUsername }}
redisUsername:
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
redisPassword:
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .secretKey }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "mistral-serve.autoscalerOptions" -}}
version: v2
idleTimeoutSeconds: {{ .Values.autoscaler.idleTimeoutSeconds }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources:
  {{- toYaml .Values.autoscaler.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{- define "mistral-serve.workerGroup" -}}
{{- $gpus := include "mistral-serve.gpus" .root -}}
- groupName: {{ .name }}
  {{- if .root.Values.autoscaler.enabled }}
  minReplicas: 0
  maxReplicas: {{ .root.Values.autoscaler.maxWorkers }}
  {{- else }}
  replicas: {{ include "mistral-serve.leastReplicas" .root }}
  minReplicas: {{ include "mistral-serve.leastReplicas" .root }}
  maxReplicas: {{ include "mistral-serve.leastReplicas" .root }}
  {{- end }}
  rayStartParams:
    num-cpus: {{ include "mistral-serve.rayCpus" .root | quote }}
    {{- if ne $gpus "0" }}
    num-gpus: {{ $gpus | quote }}
    {{- end }}
    object-store-memory: {{ .root.Values.ray.objectStoreBytes | int64 | quote }}
  template:
    {{- include "mistral-serve.workerPod" . | nindent 4 }}
{{- end -}}
