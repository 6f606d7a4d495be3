"""A camera for tests: OpenCV reads motion JPEG over HTTP from this process, and the test says what is in view."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

RATE_HZ = 30.0


def scene(seed, height=120, width=160):
    """Returns a picture with large shapes, (height, width, 3) BGR, that differs from that of another seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 216, (6, 8, 3)).astype(np.uint8)
    return np.kron(blocks, np.ones((height // 6, width // 8, 1), np.uint8))


class FakeCamera:
    """A sensor with noise in front of a scene. `shown` may be replaced, `is_frozen` repeats the newest image."""

    def __init__(self, shown):
        self.shown, self.is_frozen, self.is_silent = shown, False, False
        self._rng = np.random.default_rng(1)
        self._newest = b""
        self.url = ""

    def jpeg(self):
        import cv2

        if not (self.is_frozen and self._newest):
            noise = self._rng.integers(-3, 4, self.shown.shape)
            image = np.clip(self.shown + noise, 0, 255).astype(np.uint8)
            self._newest = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        return self._newest


@contextmanager
def cameras(*shown):
    """Serves one fake camera per scene, each at its `url`."""
    fakes = [FakeCamera(one) for one in shown]
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            fake = fakes[int(self.path.strip("/").partition(".")[0])]
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=image")
            self.end_headers()
            try:
                while not closing.wait(1 / RATE_HZ):
                    if not fake.is_silent:
                        head = "--image\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
                        image = fake.jpeg()
                        self.wfile.write(head.format(len(image)).encode() + image + b"\r\n")
            except OSError:
                return

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for number, fake in enumerate(fakes):
        fake.url = f"http://127.0.0.1:{server.server_port}/{number}.mjpg"
    try:
        yield fakes
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
