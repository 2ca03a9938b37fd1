target "a" {
  contexts = { base = "docker-image://quay.io/example/bake:1" }
  tags = ["quay.io/example/output:1"]
}
