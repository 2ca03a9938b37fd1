"""The calls of crictl in its order, by the grpc package and hand-written messages.

crictl.py SOCKET PACKAGE AUTHORITY IMAGE: an image that was not pulled yet.
"""

import sys

import grpc

SOCKET, PACKAGE, AUTHORITY, IMAGE = sys.argv[1:5]


def number(value):
    """A varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(tag, value):
    """A field: text, a message, or a number."""
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(tag << 3 | 2) + number(len(value)) + value


def fields(data):
    """The fields of a message: a list of values for each."""
    found, at = {}, 0

    def take():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = take()
        if key & 7 == 0:
            found.setdefault(key >> 3, []).append(take())
        else:
            assert key & 7 == 2, key
            length = take()
            found.setdefault(key >> 3, []).append(data[at : at + length])
            at += length
    return found


def spec(name):
    return field(1, field(1, name))


channel = grpc.insecure_channel("unix://" + SOCKET, options=[("grpc.default_authority", AUTHORITY)])


def call(method, message=b"", timeout=20):
    return fields(channel.unary_unary(f"/{PACKAGE}.{method}")(message, timeout=timeout))


# crictl version
version = call("RuntimeService/Version", field(1, "v1"))
print("RuntimeName", version[2][0].decode())
print("RuntimeApiVersion", version[4][0].decode())
assert version[1] == [b"0.1.0"], version

# Every image command of crictl asks this first, to see whether the service is there.
assert 1 in call("ImageService/ImageFsInfo")

# crictl pull
pulled = call("ImageService/PullImage", spec(IMAGE))[1][0].decode()
print("Image is up to date for", pulled)
assert pulled.startswith("sha256:") and len(pulled) == 71, pulled

# crictl images; crictl images --digests IMAGE
(image,) = call("ImageService/ListImages")[1]
(same,) = call("ImageService/ListImages", field(1, spec(IMAGE)))[1]
assert fields(image) == fields(same)
image = fields(image)
assert image[1] == [pulled.encode()] and image[2] == [IMAGE.encode()], image
assert image[3][0].startswith(IMAGE.rsplit(":", 1)[0].encode() + b"@sha256:"), image
assert image[4][0] > 0, image
assert call("ImageService/ListImages", field(1, spec("docker.io/library/none"))) == {}

# crictl inspecti, by name and by id
for name in (IMAGE, pulled, pulled[7:20], image[3][0].decode()):
    status = call("ImageService/ImageStatus", spec(name) + field(2, 1))
    assert fields(status[1][0]) == image, name
    entry = fields(status[2][0])
    assert entry[1] == [b"info"] and b"imageSpec" in entry[2][0], entry
assert call("ImageService/ImageStatus", spec("docker.io/library/none")) == {}

# crictl imagefsinfo
usage = fields(call("ImageService/ImageFsInfo")[1][0])
assert usage[1][0] > 0 and fields(usage[2][0])[1][0].startswith(b"/"), usage
assert fields(usage[3][0])[1][0] > 1000 and fields(usage[4][0])[1][0] > 10, usage

# crictl pull of what is not there; crictl info
for method, message, code in (
    ("ImageService/PullImage", spec(IMAGE + "-none"), grpc.StatusCode.NOT_FOUND),
    ("RuntimeService/Status", field(1, 1), grpc.StatusCode.UNIMPLEMENTED),
):
    try:
        call(method, message)
        sys.exit(f"{method} was answered")
    except grpc.RpcError as error:
        assert error.code() == code, error

# crictl rmi: the status first, then the removal by the name that was given
assert call("ImageService/ImageStatus", spec(pulled[7:20])) != {}
assert call("ImageService/RemoveImage", spec(pulled[7:20])) == {}
assert call("ImageService/ImageStatus", spec(IMAGE)) == {}
assert call("ImageService/ListImages") == {}
