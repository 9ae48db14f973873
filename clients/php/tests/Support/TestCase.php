<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Support;

use Plugsocket\Exception\WebsocketException;

/** A test in which every notice of ours is an error; deprecations in the code of others are passed over. */
abstract class TestCase extends \PHPUnit\Framework\TestCase
{
    protected function setUp(): void
    {
        set_error_handler(static function (int $level, string $text, string $file, int $line): bool {
            $isOurs = str_starts_with($file, dirname(__DIR__, 2) . '/') && ! str_contains($file, '/vendor/');
            if ((error_reporting() & $level) === 0 || (! $isOurs && ($level & (E_DEPRECATED | E_USER_DEPRECATED)) !== 0)) {
                return true;
            }
            throw new \ErrorException($text, 0, $level, $file, $line);
        });
    }

    protected function tearDown(): void
    {
        restore_error_handler();
    }

    final protected static function waitUntil(callable $holds, string $what): void
    {
        $end = microtime(true) + 10;
        while (! $holds()) {
            self::assertLessThan($end, microtime(true), "waited in vain for $what");
            usleep(10_000);
        }
    }

    /**
     * @template E of WebsocketException
     * @param class-string<E> $class
     * @param string ...$words What the text must have in it.
     * @return E
     */
    final protected static function refused(string $class, callable $does, string ...$words): WebsocketException
    {
        try {
            $does();
        } catch (WebsocketException $error) {
            self::assertSame($class, $error::class, $error->getMessage());
            foreach ($words as $word) {
                self::assertStringContainsString($word, $error->getMessage());
            }

            return $error;
        }
        self::fail("$class was not thrown");
    }
}
