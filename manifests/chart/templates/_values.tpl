{{/* Values that change one object: the bus's volume, and the lists of the admission policy.
     Takes dict "object", "root" and "targets"; changes the object in place. */}}
{{- define "sluice.fromValues" -}}
{{- $values := .root.Values -}}
{{- $spec := .object.spec -}}
{{- if and (eq .object.kind "StatefulSet") (eq .object.metadata.name "nats") -}}
  {{- range $spec.volumeClaimTemplates -}}
    {{- $storage := $values.bus.storage -}}
    {{- if $storage.storageClass -}}{{- $_ := set .spec "storageClassName" $storage.storageClass -}}{{- end -}}
    {{- if $storage.size -}}{{- $_ := set .spec.resources.requests "storage" $storage.size -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- if and (eq .object.kind "Role") (eq .object.metadata.name "sluice-actuator-selectors") .targets.records -}}
  {{- range .object.rules -}}{{- if .resourceNames -}}{{- $_ := set . "resourceNames" $.targets.records -}}{{- end -}}{{- end -}}
{{- end -}}
{{- if eq .object.kind "ValidatingAdmissionPolicy" -}}
  {{- $lists := dict "targets" .targets.targets "selected" .targets.selected "stamped" $values.admission.stamped -}}
  {{- range $spec.variables -}}
    {{- if hasKey $lists .name -}}
      {{- $_ := set . "expression" (get $lists .name | toJson | replace "\",\"" "\", \"") -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the bus users' passwords.  A password that is there stays, so that an upgrade changes none.
     Takes dict "objects" (whose containers name the keys) and "root". */}}
{{- define "sluice.secret" -}}
{{- $name := "sluice-bus" -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $there := (lookup "v1" "Secret" $namespace $name).data | default dict -}}
{{- $data := dict -}}
{{- range .objects -}}{{- if hasKey (.spec | default dict) "template" -}}
  {{- range .spec.template.spec.containers -}}{{- range .env -}}
    {{- $key := ((.valueFrom | default dict).secretKeyRef | default dict) -}}
    {{- if eq ($key.name | default "") $name -}}
      {{- /* NATS reads a value that begins with a digit as a number. */ -}}
      {{- $fresh := printf "p%s" (randAlphaNum 32) | b64enc -}}
      {{- $_ := set $data $key.key (get $there $key.key | default (get $data $key.key) | default $fresh) -}}
    {{- end -}}
  {{- end -}}{{- end -}}
{{- end -}}{{- end -}}
{{- $metadata := dict "name" $name "namespace" $namespace -}}
{{- dict "apiVersion" "v1" "kind" "Secret" "metadata" $metadata "type" "Opaque" "data" $data | toYaml -}}
{{- end -}}

{{/* The Job that `helm uninstall` waits for: the actuator's pod, with `sluice restore` as its command.
     A running actuator leaves restored targets alone.  Takes dict "objects" and "root". */}}
{{- define "sluice.restoreJob" -}}
{{- $root := .root -}}
{{- $labels := dict "app.kubernetes.io/name" "sluice-restore" "app.kubernetes.io/part-of" "sluice" -}}
{{- range .objects -}}{{- if and (has .kind (list "Deployment" "StatefulSet")) (eq .metadata.name "sluice-actuator") -}}
  {{- $pod := deepCopy .spec.template.spec -}}
  {{- $container := first $pod.containers -}}
  {{- range list "ports" "readinessProbe" "livenessProbe" -}}{{- $_ := unset $container . -}}{{- end -}}
  {{- $_ := set $container "name" "restore" -}}
  {{- $_ := set $container "args" (list "restore" "--config" "/etc/sluice/config.yaml") -}}
  {{- $_ := set $pod "restartPolicy" "Never" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: sluice-restore
  namespace: {{ $root.Release.Namespace }}
  labels: {{ toJson $labels }}
  annotations:
    helm.sh/hook: pre-delete
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 3
  activeDeadlineSeconds: {{ $root.Values.restore.deadlineSeconds }}
  template:
    metadata:
      labels: {{ toJson $labels }}
    spec:
      {{- toYaml $pod | nindent 6 }}
{{- end -}}{{- end -}}
{{- end -}}

{{/* Whether the definition of BandwidthDomains has rules in CEL; empty means no.  Before 1.25 no API server knows them. */}}
{{- define "sluice.hasRules" -}}
{{- if or (eq .Values.crds.rules "always") (and (eq .Values.crds.rules "auto") (semverCompare ">=1.25-0" .Capabilities.KubeVersion.Version)) -}}yes{{- end -}}
{{- end -}}
