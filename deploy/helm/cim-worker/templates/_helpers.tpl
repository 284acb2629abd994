{{- define "cim.name" -}}
{{- if contains "cim-worker" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-cim-worker" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "cim.selector" -}}
app.kubernetes.io/name: cim-worker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cim.labels" -}}
{{ include "cim.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cim.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "cim.secret" -}}
{{ .Values.secret.existing | default (include "cim.name" .) }}
{{- end }}

{{/* What every container may and may not do. */}}
{{- define "cim.container" -}}
image: {{ include "cim.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
envFrom:
  - configMapRef: {name: {{ include "cim.name" . }}}
volumeMounts:
  - {name: secrets, mountPath: /run/secrets/cim, readOnly: true}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{/* A pod that sees only the secrets of its job: `keys`. */}}
{{- define "cim.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: secrets
    secret:
      secretName: {{ include "cim.secret" .root }}
      defaultMode: 0440
      items:
        {{- range .keys }}
        - {key: {{ . }}, path: {{ . }}}
        {{- end }}
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 16Mi}
{{- end }}
