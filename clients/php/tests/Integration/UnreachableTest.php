<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Integration;

use Plugsocket\Exception\Refused;
use Plugsocket\Exception\Unreachable;
use Plugsocket\Tests\Support\Services;
use Plugsocket\Tests\Support\TestCase;
use Plugsocket\Websocket;

/** What is said when Redis or the server is away, silent, or something else altogether. */
final class UnreachableTest extends TestCase
{
    public function testRedisGoesAway(): void
    {
        $services = new Services();
        $phpredis = $services->redis();
        $predis = $services->predis();
        Websocket::redis($phpredis)->all()->send('a');
        Websocket::redis($predis)->all()->send('a');
        $services->end();
        self::refused(Unreachable::class, static fn () => Websocket::redis($phpredis)->all()->send('a'), 'Redis did not take the message');
        self::refused(Unreachable::class, static fn () => Websocket::redis($predis)->all()->send('a'), 'Redis did not take the message');
        self::refused(Unreachable::class, static fn () => Websocket::redis(static fn () => $services->redis())->all()->send('a'), "Redis can't be reached", 'Nothing was sent');
        self::refused(Unreachable::class, static fn () => Websocket::redis(new \Redis())->all()->send('a'), 'Redis did not take the message');
    }

    public function testNobodyListens(): void
    {
        [$listener, $url] = $this->listener();
        fclose($listener);
        self::refused(Unreachable::class, static fn () => Websocket::http($url)->all()->send('a'), $url, 'refused', '`ops.listen`', 'Nothing was sent');
        self::refused(Unreachable::class, static fn () => Websocket::http('http://name.invalid')->online(), 'name.invalid');
        self::refused(Unreachable::class, static fn () => Websocket::http(str_replace('http:', 'https:', $url))->online(), "can't be reached");
    }

    public function testASilentServerCostsTheTimeoutAndNoMore(): void
    {
        [$listener, $url] = $this->listener();
        $began = microtime(true);
        self::refused(Unreachable::class, static fn () => Websocket::http($url, timeout: 0.3)->all()->send('a'), 'did not answer within 0.3 s', 'may have been sent');
        $error = self::refused(Unreachable::class, static fn () => Websocket::http($url, timeout: 0.3)->online(), 'within 0.3 s');
        self::assertStringNotContainsString('may have been sent', $error->getMessage());
        // More than the kernel takes by itself, and nobody reads it.
        $large = str_repeat('x', 64 << 20);
        self::refused(Unreachable::class, static fn () => Websocket::http($url, timeout: 0.3, limit: 128 << 20)->all()->send('a', $large), 'within 0.3 s');
        self::assertLessThan(5.0, microtime(true) - $began);
        fclose($listener);
    }

    /** @dataProvider strangers */
    public function testSomethingElseAnswers(string $answer, string $class, string ...$words): void
    {
        [$listener, $url] = $this->listener();
        $child = pcntl_fork();
        if ($child === 0) {
            $stream = stream_socket_accept($listener, 10);
            fread($stream, 65_536);
            fwrite($stream, $answer);
            fclose($stream);
            posix_kill(posix_getpid(), SIGKILL); // Without the end of the tests, which is its parent's.
        }
        try {
            self::refused($class, static fn () => Websocket::http($url)->all()->send('a'), $url, ...$words);
        } finally {
            pcntl_waitpid($child, $status);
            fclose($listener);
        }
    }

    /** @return iterable<string, list<string>> */
    public static function strangers(): iterable
    {
        yield 'nothing' => ['', Unreachable::class, 'without an answer', 'may have been sent'];
        yield 'no HTTP' => ["SSH-2.0-x\r\n", Unreachable::class, 'no HTTP', '`ops.listen`'];
        yield 'cut off' => ["HTTP/1.1 202 Accepted\r\nContent-Length: 17\r\n\r\n{\"acc", Unreachable::class, 'cut off', 'may have been sent'];
        yield 'a page' => ["HTTP/1.1 200 OK\r\n\r\n<html>", Refused::class, 'status 200', '`ops.listen`'];
        yield 'a redirect' => ["HTTP/1.1 301 Moved\r\nLocation: http://x/\r\n\r\n", Refused::class, 'status 301'];
        yield 'a proxy' => ["HTTP/1.1 502 Bad Gateway\r\n\r\n{\"error\":\"x\"}", Refused::class, 'status 502'];
        yield 'busy' => ["HTTP/1.1 503 x\r\n\r\n{\"error\":{\"code\":\"busy\",\"message\":\"Redis is away\"}}", Refused::class, 'busy: Redis is away'];
    }

    /** @return array{resource, string} */
    private function listener(): array
    {
        $listener = stream_socket_server('tcp://127.0.0.1:0');
        self::assertIsResource($listener);

        return [$listener, 'http://' . stream_socket_get_name($listener, false)];
    }
}
