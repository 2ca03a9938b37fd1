#!/bin/sh
set -e
docker pull quay.io/example/one:1
sudo crictl pull quay.io/example/two:2
