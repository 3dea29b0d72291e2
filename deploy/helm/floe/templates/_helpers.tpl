{{- define "floe.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "floe.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "floe.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "floe.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "floe.selector" -}}
app.kubernetes.io/name: {{ include "floe.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end -}}

{{- define "floe.labels" -}}
{{ include "floe.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "floe.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "floe.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* What must be given, and what the chart decides and settings must not repeat. */ -}}
{{- define "floe.check" -}}
{{- if not .Values.etcd.endpoints -}}{{- fail "etcd.endpoints: name the members of etcd, as HOST:PORT or URL" -}}{{- end -}}
{{- if not .Values.store.url -}}{{- fail "store.url: name the bucket: s3://BUCKET/PREFIX?region=NAME" -}}{{- end -}}
{{- range $name := list "addr" "advertise" "rpc-addr" "rpc-advertise" "admin-addr" "admin-insecure" "cluster" "etcd" "etcd-ca" "etcd-cert" "etcd-key" "etcd-user" "etcd-password-file" "rpc-tls-cert" "rpc-tls-key" "rpc-tls-ca" "rpc-tls-name" "store" "zone" "node-id" "memory-budget" "cache-disk-dir" "cache-disk-bytes" "drain-timeout" "config" -}}
{{- if hasKey $.Values.settings $name -}}{{- fail (printf "settings.%s: the chart gives this itself, by a value of its own" $name) -}}{{- end -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}{{- fail "autoscaling: minReplicas is more than maxReplicas" -}}{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCPUUtilization) (not .Values.autoscaling.targetLoadRatio) (not .Values.autoscaling.podMetrics) -}}{{- fail "autoscaling: give targetCPUUtilization, targetLoadRatio or podMetrics" -}}{{- end -}}
{{- end -}}
