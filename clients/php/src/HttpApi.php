<?php

declare(strict_types=1);

namespace Plugsocket;

use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\Refused;
use Plugsocket\Exception\Unreachable;

/** The server's HTTP API, on its ops listener. One request, one connection, one deadline for all of it. */
final class HttpApi
{
    /** A thousand connections in very many groups. */
    private const ANSWER_BYTES_MAX = 32 << 20;
    private const PIECE_BYTES = 64 << 10;

    private readonly string $host;
    private readonly int $port;
    private readonly bool $tls;
    private readonly string $path;

    /**
     * @param string $url Where the ops listener is, such as `http://127.0.0.1:8001`.
     * @param string|null $token The server's `ops.token`, when it has one.
     * @param float $timeout Most seconds for a request with its answer.
     *
     * @throws NotConfigured
     */
    public function __construct(
        string $url,
        #[\SensitiveParameter] private readonly ?string $token = null,
        private readonly float $timeout = 5.0,
    ) {
        $parts = parse_url($url);
        $scheme = strtolower($parts['scheme'] ?? '');
        $isUsable = is_array($parts) && in_array($scheme, ['http', 'https'], true) && ($parts['host'] ?? '') !== ''
            && ! isset($parts['user']) && ! isset($parts['query']) && ! isset($parts['fragment']) && preg_match('/[\x00-\x20\x7f]/', $url) !== 1;
        if (! $isUsable) {
            throw new NotConfigured('The address of the HTTP API must be like http://127.0.0.1:8001 (`ops.listen` in the plugsocket.toml of the server); it is "' . addcslashes(self::withoutPassword($url), "\0..\37\177") . '".');
        }
        if ($token !== null && preg_match('/^[\x21-\x7e]+$/', $token) !== 1) {
            throw new NotConfigured('The token for the HTTP API must have visible ASCII characters only, and at least one; without `ops.token` at the server leave it null.');
        }
        if ($timeout <= 0 || ! is_finite($timeout)) {
            throw new NotConfigured('The timeout for the HTTP API must be longer than 0 seconds.');
        }
        $this->tls = $scheme === 'https';
        $this->host = $parts['host'];
        $this->port = $parts['port'] ?? ($this->tls ? 443 : 80);
        $this->path = rtrim($parts['path'] ?? '', '/');
    }

    /**
     * @return array<string, mixed>
     *
     * @throws Refused|Unreachable
     */
    public function get(string $path): array
    {
        return $this->answer("GET $path", $this->request("GET {$this->path}$path HTTP/1.0", '', ''));
    }

    /**
     * @param string $body JSON.
     * @return array<string, mixed>
     *
     * @throws Refused|Unreachable
     */
    public function post(string $path, string $body): array
    {
        $headers = "Content-Type: application/json\r\nContent-Length: " . strlen($body) . "\r\n";

        return $this->answer("POST $path", $this->request("POST {$this->path}$path HTTP/1.0", $headers, $body));
    }

    /** HTTP/1.0, so that the answer comes in one piece. */
    private function request(string $line, string $headers, string $body): string
    {
        $end = microtime(true) + $this->timeout;
        $stream = $this->connect();
        $authorization = $this->token === null ? '' : "Authorization: Bearer {$this->token}\r\n";
        $request = "$line\r\nHost: {$this->host}:{$this->port}\r\nConnection: close\r\nAccept: application/json\r\n$authorization$headers\r\n$body";
        try {
            $this->write($stream, $request, $end, $body !== '');

            return $this->read($stream, $end, $body !== '');
        } finally {
            fclose($stream);
        }
    }

    /** @return resource */
    private function connect(): mixed
    {
        $address = ($this->tls ? 'tls://' : 'tcp://') . "{$this->host}:{$this->port}";
        $context = stream_context_create(['ssl' => ['peer_name' => trim($this->host, '[]')], 'socket' => ['tcp_nodelay' => true]]);
        [$number, $reason, $warning] = [0, '', ''];
        set_error_handler(static function (int $level, string $text) use (&$warning): bool {
            $warning = $warning ?: $text;

            return true;
        });
        try {
            $stream = stream_socket_client($address, $number, $reason, $this->timeout, STREAM_CLIENT_CONNECT, $context);
        } finally {
            restore_error_handler();
        }
        if ($stream === false) {
            $reason = rtrim($reason ?: $warning, '.');
            throw new Unreachable("The server's HTTP API at {$this->place()} can't be reached: $reason. Is the server running, and is this its `ops.listen`? Nothing was sent.");
        }

        return $stream;
    }

    /** @param resource $stream */
    private function write(mixed $stream, string $request, float $end, bool $sends): void
    {
        for ($at = 0; $at < strlen($request); $at += $written) {
            $this->wait($stream, $end, $sends);
            $written = @fwrite($stream, substr($request, $at, self::PIECE_BYTES));
            if ($written === false || $written === 0) {
                if (stream_get_meta_data($stream)['timed_out']) {
                    throw $this->late($sends);
                }
                // It may have refused before it had read all: then its answer says why.
                return;
            }
        }
    }

    /** @param resource $stream */
    private function read(mixed $stream, float $end, bool $sends): string
    {
        $answer = '';
        while (true) {
            $this->wait($stream, $end, $sends);
            $piece = @fread($stream, self::PIECE_BYTES);
            if ($piece === false || $piece === '') {
                // `feof` says yes in both cases.
                return stream_get_meta_data($stream)['timed_out'] ? throw $this->late($sends) : $answer;
            }
            $answer .= $piece;
            if (strlen($answer) > self::ANSWER_BYTES_MAX) {
                throw new Unreachable("{$this->place()} answers with more than 32 MiB: is it the ops listener of a plugsocket-server?");
            }
        }
    }

    /**
     * Gives the next step what is left of the time.
     *
     * @param resource $stream
     */
    private function wait(mixed $stream, float $end, bool $sends): void
    {
        $left = $end - microtime(true);
        if ($left <= 0) {
            throw $this->late($sends);
        }
        stream_set_timeout($stream, (int) $left, (int) (fmod($left, 1) * 1_000_000));
    }

    private function late(bool $sends): Unreachable
    {
        return new Unreachable(sprintf('%s did not answer within %g s.%s', $this->place(), $this->timeout, $sends ? ' The message may have been sent.' : ''));
    }

    /** @return array<string, mixed> */
    private function answer(string $what, string $answer): array
    {
        [$head, $body] = explode("\r\n\r\n", $answer, 2) + [1 => ''];
        $isHttp = preg_match('~^HTTP/1\.[01] (\d{3})~', $head, $status) === 1;
        $isCut = preg_match('/^Content-Length: *(\d+)/mi', $head, $length) === 1 && strlen($body) < (int) $length[1];
        if (! $isHttp || $isCut) {
            $reason = $answer === '' ? 'it closed the connection without an answer' : ($isCut ? 'its answer was cut off' : 'its answer is no HTTP');
            $sent = str_starts_with($what, 'POST') ? ' The message may have been sent.' : '';
            throw new Unreachable("{$this->place()} did not answer $what: $reason. Is it the ops listener (`ops.listen`) of a plugsocket-server?$sent");
        }
        $status = (int) $status[1];
        $json = json_decode($body, true);
        if ($status >= 200 && $status < 300 && is_array($json)) {
            return $json;
        }
        $error = is_array($json) && is_array($json['error'] ?? null) ? $json['error'] : [];
        $code = is_string($error['code'] ?? null) ? $error['code'] : '';
        if ($code === '') {
            $text = "{$this->place()} answered $what with status $status and no error of ours: is it the ops listener (`ops.listen`) of a plugsocket-server?";
            throw new Refused($text, $status, '');
        }
        $message = is_string($error['message'] ?? null) ? $error['message'] : '';
        $hint = $code === 'unauthorized' ? ' (`token` here must be its `ops.token`)' : '';
        throw new Refused("{$this->place()} refused $what, $code: $message$hint", $status, $code);
    }

    private function place(): string
    {
        return ($this->tls ? 'https://' : 'http://') . "{$this->host}:{$this->port}{$this->path}";
    }

    private static function withoutPassword(string $url): string
    {
        return preg_replace('~//[^/@]*@~', '//…@', $url) ?? '';
    }
}
