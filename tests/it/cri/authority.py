"""Calls over one HTTP/2 connection with paths and other strings as the authority, by hyper-h2.

authority.py SOCKET
"""

import socket
import sys

import h2.connection
import h2.config
import h2.events

PATH = sys.argv[1]
# Short and long, with characters of short and long Huffman codes, repeated, and valid ones.
AUTHORITIES = [PATH, PATH.replace("/", "%2F"), "localhost", PATH, "/" + "a" * 300, "/a b\\c|{~}", "unix://" + PATH, "x:1", PATH, "/"]

config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False)
connection = h2.connection.H2Connection(config)
connection.initiate_connection()
link = socket.socket(socket.AF_UNIX)
link.settimeout(20)
link.connect(PATH)
answers = 0
for number in range(60):
    stream = connection.get_next_available_stream_id()
    connection.send_headers(
        stream,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/runtime.{'v1' if number % 2 else 'v1alpha2'}.RuntimeService/Version"),
            (":authority", AUTHORITIES[number % len(AUTHORITIES)]),
            ("content-type", "application/grpc"),
            ("user-agent", f"grpc-go/1.{number % 7}"),
            ("te", "trailers"),
        ],
    )
    connection.send_data(stream, b"\0\0\0\0\0", end_stream=True)
    link.sendall(connection.data_to_send())
    ended = False
    while not ended:
        for event in connection.receive_data(link.recv(65536)):
            if isinstance(event, h2.events.DataReceived):
                assert b"saver" in event.data, event.data
                connection.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.TrailersReceived):
                assert (b"grpc-status", b"0") in [(bytes(k, "ascii") if isinstance(k, str) else k, bytes(v, "ascii") if isinstance(v, str) else v) for k, v in event.headers], event.headers
                answers += 1
            elif isinstance(event, h2.events.StreamEnded):
                ended = True
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                sys.exit(f"call {number} with {AUTHORITIES[number % len(AUTHORITIES)]!r}: {event}")
        link.sendall(connection.data_to_send())
print(answers, "answers")
