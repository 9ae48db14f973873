<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Support;

/** A WebSocket client as small as these tests allow: text messages, pings, and a deadline for everything. */
final class Client
{
    private const PATIENCE = 10.0;

    /** @var resource */
    private mixed $stream;
    private string $buffer = '';
    public readonly string $connectionId;

    /** Connects and registers. */
    public function __construct(string $url, string $nickname, int|string|null $userId = null)
    {
        $address = parse_url($url);
        $stream = stream_socket_client("tcp://{$address['host']}:{$address['port']}", $number, $reason, self::PATIENCE);
        if ($stream === false) {
            throw new \RuntimeException("can't connect to $url: $reason");
        }
        $this->stream = $stream;
        $key = base64_encode(random_bytes(16));
        fwrite($stream, "GET / HTTP/1.1\r\nHost: {$address['host']}:{$address['port']}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            . "Sec-WebSocket-Key: $key\r\nSec-WebSocket-Version: 13\r\n\r\n");
        $end = microtime(true) + self::PATIENCE;
        while (! str_contains($this->buffer, "\r\n\r\n")) {
            $this->fill($end);
        }
        [$head, $this->buffer] = explode("\r\n\r\n", $this->buffer, 2);
        if (! str_starts_with($head, 'HTTP/1.1 101')) {
            throw new \RuntimeException("not upgraded: $head");
        }
        $this->send('register', array_filter(['nickname' => $nickname, 'user_id' => $userId], static fn ($value) => $value !== null), 'r');
        $this->connectionId = $this->next('registered')['data']['connection_id'];
    }

    public function send(string $action, mixed $data, string $id): void
    {
        $text = json_encode(['action' => $action, 'data' => $data, 'id' => $id], JSON_THROW_ON_ERROR);
        $this->frame(0x81, $text);
    }

    /** Sends a request and waits for its answer. */
    public function request(string $action, mixed $data): mixed
    {
        $this->send($action, $data, $id = bin2hex(random_bytes(4)));
        do {
            $frame = $this->frameText(microtime(true) + self::PATIENCE);
            $answer = json_decode($frame, true, 512, JSON_THROW_ON_ERROR);
        } while (($answer['id'] ?? null) !== $id);
        if ($answer['action'] === 'error') {
            throw new \RuntimeException("$action: $frame");
        }

        return $answer['data'];
    }

    /**
     * The next frame with this action; those of others are passed over.
     *
     * @return array<string, mixed>
     */
    public function next(string $action): array
    {
        return json_decode($this->nextText($action), true, 512, JSON_THROW_ON_ERROR);
    }

    /** As {@see next}, as it came. */
    public function nextText(string $action): string
    {
        $end = microtime(true) + self::PATIENCE;
        do {
            $text = $this->frameText($end);
        } while (json_decode($text, false, 1024)->action !== $action);

        return $text;
    }

    /**
     * The frames with one of these actions up to the first `end`, which a test sends to everybody behind what it has sent.
     *
     * @return list<mixed> Their data.
     */
    public function upTo(string $end, string $action): array
    {
        $found = [];
        $deadline = microtime(true) + self::PATIENCE;
        while (true) {
            $frame = json_decode($this->frameText($deadline), true, 512, JSON_THROW_ON_ERROR);
            if ($frame['action'] === $end) {
                return $found;
            }
            if ($frame['action'] === $action) {
                $found[] = $frame['data'];
            }
        }
    }

    public function close(): void
    {
        if (is_resource($this->stream)) {
            fclose($this->stream);
        }
    }

    private function frameText(float $end): string
    {
        $text = '';
        while (true) {
            [$first, $payload] = $this->receive($end);
            switch ($first & 0x0f) {
                case 0:
                case 1:
                    // The server cuts long messages into fragments.
                    $text .= $payload;
                    if ($first & 0x80) {
                        return $text;
                    }
                    break;
                case 9:
                    $this->frame(0x8a, $payload);
                    break;
                default:
                    throw new \RuntimeException('closed: ' . bin2hex($payload));
            }
        }
    }

    /** @return array{int, string} */
    private function receive(float $end): array
    {
        $head = $this->take(2, $end);
        $length = ord($head[1]);
        if ($length === 126) {
            $length = unpack('n', $this->take(2, $end))[1];
        } elseif ($length === 127) {
            $length = unpack('J', $this->take(8, $end))[1];
        }

        return [ord($head[0]), $this->take($length, $end)];
    }

    private function take(int $bytes, float $end): string
    {
        while (strlen($this->buffer) < $bytes) {
            $this->fill($end);
        }
        $taken = substr($this->buffer, 0, $bytes);
        $this->buffer = substr($this->buffer, $bytes);

        return $taken;
    }

    private function fill(float $end): void
    {
        $left = $end - microtime(true);
        if ($left <= 0) {
            throw new \RuntimeException('nothing came in time');
        }
        stream_set_timeout($this->stream, (int) $left, (int) (fmod($left, 1) * 1_000_000));
        $piece = fread($this->stream, 1 << 16);
        if ($piece === '' && feof($this->stream)) {
            throw new \RuntimeException('the connection was closed');
        }
        $this->buffer .= (string) $piece;
    }

    private function frame(int $opcode, string $payload): void
    {
        $length = strlen($payload);
        $head = $length < 126 ? chr(0x80 | $length) : ($length < 65_536 ? chr(0x80 | 126) . pack('n', $length) : chr(0x80 | 127) . pack('J', $length));
        $mask = random_bytes(4);
        fwrite($this->stream, chr($opcode) . $head . $mask . ($payload ^ str_pad('', $length, $mask)));
    }
}
