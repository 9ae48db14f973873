<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Integration;

use Plugsocket\Tests\Support\Services;
use Plugsocket\Tests\Support\TestCase;
use Plugsocket\Transport\RecordingTransport;
use Plugsocket\Websocket;

/** The PHP of the README runs. */
final class ReadmeTest extends TestCase
{
    protected function tearDown(): void
    {
        Websocket::useDefault(null);
        parent::tearDown();
    }

    private static function block(string $first): string
    {
        $readme = (string) file_get_contents(dirname(__DIR__, 2) . '/README.md');
        self::assertSame(1, preg_match('/```php\n(' . preg_quote($first, '/') . '.*?)```/s', $readme, $found), "no block that begins with $first");

        return $found[1];
    }

    public function testSending(): void
    {
        Websocket::useDefault(new Websocket($recording = new RecordingTransport()));
        $connectionId = 'n1.abc';
        eval(self::block('websocket()->to('));
        self::assertSame(
            [['connection_id' => 'n1.abc'], ['user_id' => 7], ['group' => 'room:lobby', 'except' => 'n1.abc'], ['all' => true], ['user_id' => 7, 'group' => 'staff']],
            array_column($recording->sent(), 'to'),
        );
    }

    public function testAsking(): void
    {
        Websocket::useDefault(Websocket::http(Services::shared()->apis[0]));
        $connectionId = 'nobody';
        eval(self::block('websocket()->online()'));
        self::assertNull(websocket()->connection($connectionId));
    }

    public function testWithoutLaravel(): void
    {
        $services = Services::shared();
        $code = strtr(self::block('use Plugsocket\HttpApi;'), [
            "'127.0.0.1'" => var_export($services->socket, true),
            'http://127.0.0.1:8001' => $services->apis[0],
            'connectedRedis()' => '$redis',
        ]);
        $token = null;
        eval($code);
        websocket()->broadcast('readme');
        self::assertIsInt(websocket()->online());
    }
}
