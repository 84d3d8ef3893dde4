{{/* The documents of a YAML text, as dict "documents" LIST.  Takes dict "text" and "name". */}}
{{- define "sluice.documents" -}}
{{- $found := list -}}
{{- range regexSplit "(?m)^---[ \\t]*$" .text -1 -}}
  {{- $document := fromYaml . -}}
  {{- if hasKey $document "Error" -}}{{- fail (printf "%s: %s" $.name $document.Error) -}}{{- end -}}
  {{- if $document -}}{{- $found = append $found $document -}}{{- end -}}
{{- end -}}
{{- dict "documents" $found | toYaml -}}
{{- end -}}

{{/* Applies JSON Patch operations (add, replace, remove) to dict "object", in place.  Takes dict "object" and "patch". */}}
{{- define "sluice.apply" -}}
{{- range .patch -}}
  {{- $steps := list -}}
  {{- range splitList "/" (trimPrefix "/" .path) -}}
    {{- $steps = append $steps (. | replace "~1" "/" | replace "~0" "~") -}}
  {{- end -}}
  {{- $last := last $steps -}}
  {{- $steps = initial $steps -}}
  {{- $list := "" -}}
  {{- if or (eq $last "-") (regexMatch "^[0-9]+$" $last) -}}{{- $list = last $steps -}}{{- $steps = initial $steps -}}{{- end -}}
  {{- $at := $.object -}}
  {{- range $steps -}}
    {{- if kindIs "slice" $at -}}{{- $at = index $at (int .) -}}
    {{- else if kindIs "map" $at -}}{{- $at = get $at . -}}
    {{- end -}}
  {{- end -}}
  {{- if not (kindIs "map" $at) -}}{{- fail (printf "patch of %s %s: there is no %s" $.object.kind $.object.metadata.name .path) -}}{{- end -}}
  {{- if $list -}}
    {{- if and (eq .op "add") (eq $last "-") -}}
      {{- $_ := set $at $list (append (get $at $list | default list) .value) -}}
    {{- else -}}
      {{- fail (printf "patch of %s %s: only `add` at the end of a list is supported: %s %s" $.object.kind $.object.metadata.name .op .path) -}}
    {{- end -}}
  {{- else if eq .op "remove" -}}{{- $_ := unset $at $last -}}
  {{- else if has .op (list "add" "replace") -}}{{- $_ := set $at $last .value -}}
  {{- else -}}{{- fail (printf "patch of %s %s: unknown operation %s" $.object.kind $.object.metadata.name .op) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether a patch's target selects an object.  Takes dict "target" and "object"; empty means no. */}}
{{- define "sluice.selects" -}}
{{- $name := printf "^(?:%s)$" (.target.name | default ".*") -}}
{{- $kind := printf "^(?:%s)$" (.target.kind | default ".*") -}}
{{- if and (regexMatch $kind .object.kind) (regexMatch $name .object.metadata.name) -}}yes{{- end -}}
{{- end -}}

{{/* The name that kustomize generates for a ConfigMap with a hash of its content, so that a change rolls the pods. */}}
{{- define "sluice.hashed" -}}
{{- $hash := dict "kind" "ConfigMap" "name" "" "data" .data | toJson | sha256sum | trunc 10 -}}
{{- printf "%s-%s" .name ($hash | replace "0" "g" | replace "1" "h" | replace "3" "k" | replace "a" "m" | replace "e" "t") -}}
{{- end -}}

{{/* The configuration file. */}}
{{- define "sluice.config" -}}
{{- if .Values.config -}}
  {{- if and (ne .Release.Namespace "sluice") (contains "nats.sluice.svc" .Values.config) -}}
    {{- fail (printf "config: it names nats.sluice.svc, but this release's bus is nats.%s.svc" .Release.Namespace) -}}
  {{- end -}}
  {{- .Values.config -}}
{{- else if .Values.factory.enabled -}}
  {{- .Files.Get "files/config.yaml" | replace ".sluice.svc" (printf ".%s.svc" .Release.Namespace) -}}
{{- else -}}
  {{- fail "config is empty.  Name your workloads: --set-file config=FILE (see manifests/config.yaml), or install the demonstration: --set factory.enabled=true" -}}
{{- end -}}
{{- end -}}

{{/* A hash of what the services read at their start only: the configuration without its domains. */}}
{{- define "sluice.settings" -}}
{{- omit (include "sluice.config" . | fromYaml) "domains" | toJson | sha256sum | trunc 16 -}}
{{- end -}}

{{/* Of the configured targets, as YAML: "namespaces"; "targets" as actions name them; "selected", the namespaces of
     Pods that no owner's name tells; "records", the Leases of label selectors. */}}
{{- define "sluice.targets" -}}
{{- $config := include "sluice.config" . | fromYaml -}}
{{- if hasKey $config "Error" -}}{{- fail (printf "config: %s" $config.Error) -}}{{- end -}}
{{- if not (hasKey $config "domains") -}}{{- fail "config: it has no domains" -}}{{- end -}}
{{- $namespaces := list -}}{{- $targets := list -}}{{- $selected := list -}}{{- $records := list -}}
{{- $known := list "StatefulSet" "DaemonSet" "ReplicaSet" "Job" "CronJob" "Rollout" -}}
{{- range $config.domains -}}{{- range .targets -}}
  {{- $namespace := .namespace | default "default" -}}
  {{- $namespaces = concat (append $namespaces $namespace) (.namespaces | default list) -}}
  {{- if .selector -}}
    {{- $targets = append $targets (printf "%s/selector/%s" $namespace .name) -}}
    {{- $selected = concat $selected (.namespaces | default (list $namespace)) -}}
    {{- $records = append $records (printf "sluice-target-%s" .name) -}}
  {{- else if or .deployment (eq .kind "Deployment") -}}
    {{- $targets = append $targets (printf "%s/%s" $namespace (.deployment | default .name)) -}}
  {{- else if has .kind $known -}}
    {{- $targets = append $targets (printf "%s/%s/%s" $namespace (lower .kind) .name) -}}
  {{- else -}}
    {{- $targets = append $targets (printf "%s/%s.%s/%s" $namespace (lower .kind) (first (splitList "/" .apiVersion)) .name) -}}
    {{- $selected = append $selected $namespace -}}
  {{- end -}}
{{- end -}}{{- end -}}
{{- dict "namespaces" (uniq $namespaces) "targets" $targets "selected" (uniq $selected) "records" (uniq $records) | toYaml -}}
{{- end -}}

{{/* Puts an object into this release: namespaces, images, names of generated ConfigMaps, and the values for pods.
     Takes dict "object", "root" and "generated" (names by name); changes the object in place. */}}
{{- define "sluice.adapt" -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $object := .object -}}
{{- if eq ($object.metadata.namespace | default "") "sluice" -}}{{- $_ := set $object.metadata "namespace" $namespace -}}{{- end -}}
{{- if and (eq $object.kind "Namespace") (eq $object.metadata.name "sluice") -}}
  {{- $_ := set $object.metadata "name" $namespace -}}
{{- end -}}
{{- range $object.subjects -}}
  {{- if eq (.namespace | default "") "sluice" -}}{{- $_ := set . "namespace" $namespace -}}{{- end -}}
{{- end -}}
{{- if eq $object.kind "NetworkPolicy" -}}
  {{- range $object.spec.ingress -}}{{- range .from -}}
    {{- $labels := (.namespaceSelector | default dict).matchLabels | default dict -}}
    {{- if eq (get $labels "kubernetes.io/metadata.name" | default "") "sluice" -}}
      {{- $_ := set $labels "kubernetes.io/metadata.name" $namespace -}}
    {{- end -}}
  {{- end -}}{{- end -}}
{{- end -}}
{{- if hasKey ($object.spec | default dict) "template" -}}
  {{- include "sluice.adaptPod" (dict "pod" $object.spec.template.spec "root" .root "generated" .generated "isOurs" (eq $object.metadata.namespace $namespace)) -}}
  {{- range $object.spec.template.spec.volumes -}}
    {{- if and $.root.Values.restartForSettings (hasPrefix "sluice-" ((.configMap | default dict).name | default "")) -}}
      {{- $meta := $object.spec.template.metadata -}}
      {{- $_ := set $meta "annotations" (merge (dict "sluice.dev/settings" (include "sluice.settings" $.root)) ($meta.annotations | default dict)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* The part of "sluice.adapt" for a pod's spec. */}}
{{- define "sluice.adaptPod" -}}
{{- $values := .root.Values -}}
{{- $version := .root.Chart.AppVersion -}}
{{- $generated := .generated -}}
{{- $isOurs := .isOurs -}}
{{- $images := dict "sluice" $values.image "sluice-factory" $values.factory.image -}}
{{- range concat (.pod.initContainers | default list) .pod.containers -}}
  {{- $image := get $images (regexReplaceAll ":[^:/]*$" .image "") -}}
  {{- if $image -}}
    {{- $_ := set . "image" (printf "%s:%s" $image.repository ($image.tag | default $version)) -}}
    {{- if $values.image.pullPolicy -}}{{- $_ := set . "imagePullPolicy" $values.image.pullPolicy -}}{{- end -}}
  {{- end -}}
  {{- if hasKey $values.resources .name -}}
    {{- $_ := set . "resources" (mustMergeOverwrite (.resources | default dict) (get $values.resources .name)) -}}
  {{- end -}}
{{- end -}}
{{- range .pod.volumes -}}
  {{- if hasKey . "configMap" -}}
    {{- $_ := set .configMap "name" (get $generated .configMap.name | default .configMap.name) -}}
  {{- end -}}
{{- end -}}
{{- if $values.imagePullSecrets -}}{{- $_ := set .pod "imagePullSecrets" $values.imagePullSecrets -}}{{- end -}}
{{- if $isOurs -}}
  {{- if $values.nodeSelector -}}{{- $_ := set .pod "nodeSelector" $values.nodeSelector -}}{{- end -}}
  {{- if $values.tolerations -}}{{- $_ := set .pod "tolerations" $values.tolerations -}}{{- end -}}
{{- end -}}
{{- end -}}
