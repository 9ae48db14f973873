<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Laravel;

use Illuminate\Contracts\Console\Kernel;
use Illuminate\Foundation\Console\VendorPublishCommand;
use Illuminate\Support\Facades\Redis;
use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\Unreachable;
use Plugsocket\Laravel\WebsocketServiceProvider;
use Plugsocket\Tests\Support\Client;
use Plugsocket\Tests\Support\Laravel;
use Plugsocket\Tests\Support\Services;
use Plugsocket\Tests\Support\TestCase;
use Plugsocket\Websocket;

/** `websocket()` in a real application, by its own Redis connection and config/websocket.php. */
final class ProviderTest extends TestCase
{
    private ?Laravel $laravel = null;

    protected function tearDown(): void
    {
        $this->laravel?->end();
        Websocket::useDefault(null);
        parent::tearDown();
    }

    /** @param array<string, mixed> $websocket */
    private function boot(array $websocket, string $client = 'phpredis', string $prefix = ''): Laravel
    {
        $socket = Services::shared()->socket;
        $address = $client === 'predis' ? ['scheme' => 'unix', 'path' => $socket] : ['host' => $socket, 'port' => 0];
        $redis = ['client' => $client, 'options' => ['prefix' => $prefix], 'default' => $address, 'sockets' => $address];

        return $this->laravel = new Laravel(['database' => ['redis' => $redis], 'websocket' => $websocket]);
    }

    /** @dataProvider clients */
    public function testTheHelperSendsThroughLaravelsConnection(string $client): void
    {
        $this->boot(['connection' => 'sockets'], $client);
        $seven = new Client(Services::shared()->urls[0], 'seven', 7);
        websocket()->toUser(7)->send('chat_text', ['text' => "from $client"]);
        self::assertSame(['text' => "from $client"], $seven->next('chat_text')['data']);
        \Plugsocket\Laravel\Facades\Websocket::toUser(7)->send('chat_text', 'by the facade');
        self::assertSame('by the facade', $seven->next('chat_text')['data']);
        \Websocket::to($seven->connectionId)->send('chat_text', 'by its alias');
        self::assertSame('by its alias', $seven->next('chat_text')['data']);
        $seven->close();
    }

    /** @return iterable<array{string}> */
    public static function clients(): iterable
    {
        return [['phpredis'], ['predis']];
    }

    /** @dataProvider clients */
    public function testTheConnectionsPrefixStandsBeforeTheList(string $client): void
    {
        $this->boot(['queue_name' => 'prefixed'], $client, 'shop_database_');
        websocket()->toUser(7)->send('chat_text');
        $redis = Services::shared()->redis();
        self::assertSame(1, $redis->lLen('shop_database_queues:prefixed_out'));
        self::assertSame($redis->lRange('shop_database_queues:prefixed_out', 0, 0), Redis::connection()->lrange('queues:prefixed_out', 0, 0));
        $redis->del('shop_database_queues:prefixed_out');
    }

    public function testHttpByConfig(): void
    {
        $this->boot(['transport' => 'http', 'url' => Services::shared()->apis[1], 'timeout' => '2.5', 'token' => '']);
        $seven = new Client(Services::shared()->urls[0], 'seven', 7);
        websocket()->toUser(7)->send('chat_text', 'over HTTP');
        self::assertSame('over HTTP', $seven->next('chat_text')['data']);
        self::assertTrue(websocket()->isOnline(7));
        $seven->close();
    }

    public function testWhatIsNotSetHasADefault(): void
    {
        $config = $this->boot(['queue_name' => 'mine', 'handler' => '\Chat\Handler'])->app['config']->get('websocket');
        $familiar = ['host' => 'localhost', 'port' => '8000', 'ssl' => false, 'handler' => '\Chat\Handler', 'actions' => [], 'queue_name' => 'mine'];
        self::assertSame($familiar, array_intersect_key($config, $familiar) + $familiar);
        self::assertSame(['redis', 'http://127.0.0.1:8001', null], [$config['transport'], $config['url'], $config['secret']]);
    }

    public function testSettingsThatCantWorkAreTold(): void
    {
        $app = $this->boot([])->app;
        foreach ([['transport' => 'pusher', '"redis" or "http"'], ['protocol' => 'json', '"envelope" or "flat"'], ['url' => 'x', 'ops.listen']] as $case) {
            config(['websocket' => ['queue_name' => 'a'] + $case]);
            self::refused(NotConfigured::class, static fn () => websocket(), $case[0]);
        }
        config(['websocket' => ['queue_name' => 'a', 'url' => null]]);
        self::refused(NotConfigured::class, static fn () => websocket()->online(), '`url`');
        $app->forgetInstance(Websocket::class);
        config(['websocket' => ['queue_name' => 'a', 'connection' => 'nowhere']]);
        self::refused(Unreachable::class, static fn () => websocket()->all()->send('a'), 'nowhere');
    }

    public function testTheConfigFileIsPublishedByItsTag(): void
    {
        $laravel = $this->boot([]);
        unlink($laravel->path('config/websocket.php'));
        $kernel = $laravel->app->make(Kernel::class);
        $kernel->registerCommand($laravel->app->make(VendorPublishCommand::class));
        $kernel->call('vendor:publish', ['--tag' => 'websocket-config']);
        self::assertFileEquals(dirname(__DIR__, 2) . '/config/websocket.php', $laravel->path('config/websocket.php'));
        self::assertArrayHasKey(WebsocketServiceProvider::class, $laravel->app->getLoadedProviders());
    }
}
