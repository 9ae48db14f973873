<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Laravel;

use Illuminate\Broadcasting\Channel;
use Illuminate\Broadcasting\PresenceChannel;
use Illuminate\Broadcasting\PrivateChannel;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Broadcast;
use Plugsocket\Tests\Support\Client;
use Plugsocket\Tests\Support\Laravel;
use Plugsocket\Tests\Support\Services;
use Plugsocket\Tests\Support\TestCase;

/** The whole way of broadcasting: an application authorizes, the server's plugin `channels` verifies, an event arrives. */
final class ChannelsTest extends TestCase
{
    private const SECRET = 'what the application and the server know';

    private static Services $services;
    private Laravel $laravel;

    public static function setUpBeforeClass(): void
    {
        self::$services = new Services('channels');
        $settings = ['plugins.channels.config.secret' => self::SECRET];
        self::$services->server($settings);
        self::$services->server($settings);
        self::$services->worker($settings);
    }

    public static function tearDownAfterClass(): void
    {
        self::$services->end();
    }

    protected function setUp(): void
    {
        parent::setUp();
        $redis = ['client' => 'phpredis', 'options' => ['prefix' => ''], 'default' => ['host' => self::$services->socket, 'port' => 0]];
        $this->laravel = new Laravel(['database' => ['redis' => $redis], 'websocket' => ['secret' => self::SECRET, 'url' => self::$services->apis[1]]]);
        Broadcast::routes(['middleware' => []]);
        Broadcast::channel('orders.{order}', static fn ($user, $order) => $user->id === (int) $order);
        Broadcast::channel('room.{room}', static fn ($user) => ['name' => "Zoë {$user->id}"]);
    }

    protected function tearDown(): void
    {
        $this->laravel->end();
        parent::tearDown();
    }

    /** @return array<string, mixed> What the browser's `fetch('/broadcasting/auth')` gets. */
    private function authorize(Client $client, string $channel, int $user): array
    {
        $response = $this->laravel->post('/broadcasting/auth', ['channel_name' => $channel, 'socket_id' => $client->connectionId], ['X-User' => (string) $user]);
        self::assertSame(200, $response->getStatusCode());

        return json_decode((string) $response->getContent(), true);
    }

    public function testEventsReachThoseWhoWereLetIn(): void
    {
        $one = new Client(self::$services->urls[0], 'one');
        $two = new Client(self::$services->urls[1], 'two');
        $auth = $this->authorize($one, 'private-orders.7', 7);
        self::assertSame('private-orders.7', $one->request('subscribe', ['channel' => 'private-orders.7'] + $auth)['channel']);
        foreach (['private-orders.7', 'private-orders.8'] as $channel) {
            try {
                $two->request('subscribe', ['channel' => $channel] + $auth);
                self::fail('what was signed for another must not be taken');
            } catch (\RuntimeException $error) {
                self::assertStringContainsString('bad_auth', $error->getMessage());
            }
        }
        $one->request('subscribe', ['channel' => 'presence-room.1'] + $this->authorize($one, 'presence-room.1', 7));
        // Its server tells the others of a subscription a moment after it has answered.
        self::waitUntil(static fn () => websocket()->members('channel:presence-room.1') !== [], 'the first to be in the room');
        $members = $two->request('subscribe', ['channel' => 'presence-room.1'] + $this->authorize($two, 'presence-room.1', 8))['members'];
        self::assertEqualsCanonicalizing(
            [['user_id' => 8, 'user_info' => ['name' => 'Zoë 8']], ['user_id' => 7, 'user_info' => ['name' => 'Zoë 7']]],
            $members,
        );
        $one->request('subscribe', ['channel' => 'news']);
        $two->request('subscribe', ['channel' => 'news']);

        event(new Shipped([new PrivateChannel('orders.7')], 1));
        event(new Shipped([new PresenceChannel('room.1')], 2));
        event(new Shipped([new Channel('news'), new PrivateChannel('orders.7')], 3));
        $this->laravel->app->instance('request', Request::create('/', 'POST', [], [], [], ['HTTP_X_SOCKET_ID' => $one->connectionId]));
        broadcast(new Shipped(['news'], 4))->toOthers();
        websocket()->broadcast('end');

        $got = static fn (Client $client) => array_map(
            static fn (array $data) => [$data['channel'], $data['event'], $data['data']['order'], $data['data']['place']],
            $client->upTo('end', 'broadcast'),
        );
        $frame = static fn (string $channel, int $order) => [$channel, Shipped::class, $order, 'Zürich'];
        self::assertSame(
            [$frame('private-orders.7', 1), $frame('presence-room.1', 2), $frame('news', 3), $frame('private-orders.7', 3)],
            $got($one),
        );
        self::assertSame([$frame('presence-room.1', 2), $frame('news', 3), $frame('news', 4)], $got($two));
        $one->close();
        $two->close();
    }
}
