{{ define "lib.tag" }}7{{ end }}
