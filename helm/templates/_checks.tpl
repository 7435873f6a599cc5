{{/* Values that must not render: each fails with one sentence that names the value and the remedy. What a schema can say is
in values.schema.json. */}}

{{- define "mistral-serve.check" -}}
{{- include "mistral-serve.checkNames" . -}}
{{- include "mistral-serve.checkDevice" . -}}
{{- include "mistral-serve.checkSecrets" . -}}
{{- include "mistral-serve.checkEnvironment" . -}}
{{- include "mistral-serve.checkScaling" . -}}
{{- include "mistral-serve.checkModelCache" . -}}
{{- include "mistral-serve.checkDrain" . -}}
{{- include "mistral-serve.checkUpgrade" . -}}
{{- include "mistral-serve.checkRay" . -}}
{{- include "mistral-serve.checkRoutes" . -}}
{{- end -}}

{{- define "mistral-serve.checkNames" -}}
{{- $name := include "mistral-serve.fullname" . -}}
{{- if gt (len $name) 47 -}}
{{- fail (printf "the name %s has %d characters and KubeRay allows 47: set fullnameOverride to a shorter one" $name (len $name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the name %s is not a DNS label: set fullnameOverride to small letters, digits and dashes, a letter first" $name) -}}
{{- end -}}
{{- if eq .Values.image.tag "latest" -}}
{{- fail "image.tag is latest: name a version, so that all pods of a cluster run the same image" -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkDevice" -}}
{{- if and .Values.autoscaler.enabled (dig "hardware" "accelerator_type" "" .Values.settings) -}}
{{- fail "settings.hardware.accelerator_type is not known to Ray's autoscaler, which would start no worker pod: choose the GPU with worker.nodeSelector" -}}
{{- end -}}
{{- if eq .Values.settings.hardware.device "cpu" -}}
{{- if not .Values.settings.hardware.cores_per_replica -}}
{{- fail "settings.hardware.device is cpu: give settings.hardware.cores_per_replica, the cores of one replica" -}}
{{- end -}}
{{- with dig "vllm" "tensor_parallel_size" 1 .Values.settings -}}
{{- if gt (int .) 1 -}}
{{- fail (printf "settings.vllm.tensor_parallel_size is %d but a CPU replica is not spread: leave it out" (int .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkSecrets" -}}
{{- with .Values.auth -}}
{{- if and .existingSecret .keysFile -}}
{{- fail "auth.existingSecret and auth.keysFile exclude each other: give one of them" -}}
{{- end -}}
{{- if and .enabled (not .existingSecret) (not .keysFile) -}}
{{- fail "auth.enabled needs API keys: put the file that python -m deploy.keys writes into a Secret and name it in auth.existingSecret, or set auth.enabled to false" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.hfToken.existingSecret .Values.hfToken.value -}}
{{- fail "hfToken.existingSecret and hfToken.value exclude each other: give one of them" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.existingSecret) -}}
{{- fail "tls.enabled needs a certificate: name a Secret of type kubernetes.io/tls in tls.existingSecret" -}}
{{- end -}}
{{- range $name, $instead := dict "api_key" "auth.existingSecret" "hf_token" "hfToken.existingSecret" -}}
{{- if dig "engine" $name "" $.Values.settings -}}
{{- fail (printf "settings.engine.%s would stand in the RayService for all to read: use %s" $name $instead) -}}
{{- end -}}
{{- end -}}
{{- range $group, $name := dict "quotas" "redis_url" "guard" "moderation_url" "tracing" "otlp_endpoint" -}}
{{- if regexMatch "@|[?&]password=" (dig $group $name "" $.Values.settings | default "") -}}
{{- fail (printf "settings.%s.%s holds a password, which would stand in the RayService for all to read: take it out" $group $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkEnvironment" -}}
{{- $own := append (keys (fromYaml (include "mistral-serve.serveEnvironment" .))) "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S" -}}
{{- $own = concat $own (list "HOME" "_MISTRAL_SERVE_PROXY_BIND" "HF_HOME" "HF_TOKEN" "RAY_AUTH_MODE" "RAY_AUTH_TOKEN") -}}
{{- $redis := list "RAY_REDIS_ADDRESS" "REDIS_PASSWORD" "REDIS_USERNAME" -}}
{{- $pods := dict "head" .Values.head "worker" .Values.worker -}}
{{- range .Values.workerGroups -}}
{{- $_ := set $pods (printf "workerGroups %s" .name) . -}}
{{- end -}}
{{- range $pod, $values := $pods -}}
{{- range $values.env -}}
{{- if has .name $own -}}
{{- fail (printf "%s.env sets %s, which the chart sets itself: take it out" $pod .name) -}}
{{- end -}}
{{- if has .name $redis -}}
{{- fail (printf "%s.env sets %s: Ray's state in Redis is configured under gcsFaultTolerance alone" $pod .name) -}}
{{- end -}}
{{- if and (hasKey . "value") (regexMatch "TOKEN|PASSWORD|SECRET|API_?KEY|CREDENTIAL" (upper .name)) -}}
{{- fail (printf "%s.env gives %s as plain text: use valueFrom.secretKeyRef" $pod .name) -}}
{{- end -}}
{{- end -}}
{{- range list "ray.io/ft-enabled" "ray.io/external-storage-namespace" -}}
{{- if hasKey ($values.podAnnotations | default dict) . -}}
{{- fail (printf "%s.podAnnotations has %s: Ray's state in Redis is configured under gcsFaultTolerance alone" $pod .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.mostReplicas" -}}
{{- $scaling := .Values.settings.scaling | default dict -}}
{{- $scaling.max_replicas | default $scaling.replicas | default 1 | int -}}
{{- end -}}

{{- define "mistral-serve.checkScaling" -}}
{{- $scaling := .Values.settings.scaling | default dict -}}
{{- $low := $scaling.min_replicas | int -}}
{{- $high := $scaling.max_replicas | int -}}
{{- $least := include "mistral-serve.leastReplicas" . | int -}}
{{- $most := include "mistral-serve.mostReplicas" . | int -}}
{{- if ne (gt $low 0) (gt $high 0) -}}
{{- fail (printf "autoscaling needs both bounds: give settings.scaling.%s too" (ternary "max_replicas" "min_replicas" (gt $low 0))) -}}
{{- end -}}
{{- if and $high (not $scaling.target_ongoing_requests) -}}
{{- fail "autoscaling needs settings.scaling.target_ongoing_requests: give about half of settings.vllm.max_num_seqs" -}}
{{- end -}}
{{- if and $high $scaling.replicas -}}
{{- fail "settings.scaling.replicas excludes min_replicas and max_replicas: give a fixed number or a range" -}}
{{- end -}}
{{- if gt $low $high -}}
{{- fail (printf "settings.scaling.min_replicas (%d) cannot exceed settings.scaling.max_replicas (%d)" $low $high) -}}
{{- end -}}
{{- with .Values.autoscaler -}}
{{- if and $high (not .enabled) -}}
{{- fail "settings.scaling.max_replicas asks for autoscaling: set autoscaler.enabled to true, or give settings.scaling.replicas" -}}
{{- end -}}
{{- if and .enabled (gt $most (int .maxWorkers)) -}}
{{- fail (printf "autoscaler.maxWorkers is %d but up to %d replicas may run: raise it" (int .maxWorkers) $most) -}}
{{- end -}}
{{- if and $.Values.workerGroups (not .enabled) -}}
{{- fail "workerGroups need Ray's autoscaler to choose between them: set autoscaler.enabled to true" -}}
{{- end -}}
{{- end -}}
{{- $names := list "model" -}}
{{- range .Values.workerGroups -}}
{{- if has .name $names -}}
{{- fail (printf "two groups of worker pods are called %s: give each of workerGroups a name of its own" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if ge (int .Values.pdb.minAvailable) $least -}}
{{- fail (printf "pdb.minAvailable is %d but only %d replicas always run, so that no node could be drained: lower it" (int .Values.pdb.minAvailable) $least) -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkModelCache" -}}
{{- $most := include "mistral-serve.mostReplicas" . | int -}}
{{- with .Values.modelCache -}}
{{- range $type, $key := dict "existingClaim" "existingClaim" "image" "image" "hostPath" "hostPath" -}}
{{- if and (eq $.Values.modelCache.type $type) (not (get $.Values.modelCache $key)) -}}
{{- fail (printf "modelCache.type is %s: give modelCache.%s" $type $key) -}}
{{- end -}}
{{- end -}}
{{- $claim := has .type (list "pvc" "existingClaim") -}}
{{- if and $claim (hasPrefix "ReadWriteOnce" .accessMode) (gt $most 1) -}}
{{- fail (printf "modelCache.accessMode is %s but up to %d worker pods mount the claim: use ReadWriteMany, or a modelCache.type without a claim" .accessMode $most) -}}
{{- end -}}
{{- if and .preload.enabled (not $claim) -}}
{{- fail (printf "modelCache.preload needs a claim that the worker pods mount too, but modelCache.type is %s: use pvc or existingClaim" .type) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkDrain" -}}
{{- with .Values.drain -}}
{{- $takes := add .timeoutSeconds .preStopSleepSeconds -}}
{{- if and (not (kindIs "invalid" .terminationGracePeriodSeconds)) (le (int .terminationGracePeriodSeconds) (int $takes)) -}}
{{- fail (printf "drain.terminationGracePeriodSeconds is %d but waiting and draining take %d: give more, or leave it empty" (int .terminationGracePeriodSeconds) (int $takes)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkUpgrade" -}}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" -}}
{{- $prefix := "upgrade.strategy NewClusterWithIncrementalUpgrade" -}}
{{- if not .Values.upgrade.gatewayClassName -}}
{{- fail (printf "%s needs a class for KubeRay's Gateway: give upgrade.gatewayClassName" $prefix) -}}
{{- end -}}
{{- if not .Values.autoscaler.enabled -}}
{{- fail (printf "%s needs Ray's autoscaler: set autoscaler.enabled to true" $prefix) -}}
{{- end -}}
{{- if .Values.tls.enabled -}}
{{- fail (printf "%s speaks plain HTTP only: set tls.enabled to false" $prefix) -}}
{{- end -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled -}}
{{- fail (printf "%s brings a Gateway and an HTTPRoute of its own: set ingress.enabled and httpRoute.enabled to false" $prefix) -}}
{{- end -}}
{{- if or (ne .Values.service.type "ClusterIP") .Values.service.annotations -}}
{{- fail (printf "%s ignores what service says: leave service.type and service.annotations out" $prefix) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkRay" -}}
{{- if and .Values.rayAuth.enabled (semverCompare "<2.52.0-0" .Values.ray.version) -}}
{{- fail (printf "rayAuth.enabled needs Ray 2.52.0 or newer but ray.version is %s: set rayAuth.enabled to false" .Values.ray.version) -}}
{{- end -}}
{{- with .Values.gcsFaultTolerance -}}
{{- if and .enabled (not .redisAddress) -}}
{{- fail "gcsFaultTolerance.enabled needs Redis: give gcsFaultTolerance.redisAddress as HOST:PORT" -}}
{{- end -}}
{{- if contains "@" .redisAddress -}}
{{- fail "gcsFaultTolerance.redisAddress holds a password, which would stand in the RayService for all to read: use gcsFaultTolerance.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistral-serve.checkRoutes" -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.enabled needs a host name: give ingress.host" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs a Gateway: name it in httpRoute.parentRefs" -}}
{{- end -}}
{{- end -}}
