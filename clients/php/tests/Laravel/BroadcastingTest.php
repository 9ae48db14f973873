<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Laravel;

use Illuminate\Broadcasting\BroadcastException;
use Illuminate\Broadcasting\Channel;
use Illuminate\Broadcasting\EncryptedPrivateChannel;
use Illuminate\Broadcasting\PresenceChannel;
use Illuminate\Broadcasting\PrivateChannel;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Broadcast;
use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\Unencodable;
use Plugsocket\Tests\Support\Laravel;
use Plugsocket\Tests\Support\Services;
use Plugsocket\Tests\Support\TestCase;

/** The broadcasting driver in a real application: who may subscribe, and what events become. */
final class BroadcastingTest extends TestCase
{
    private const SECRET = '0123456789abcdef0123456789abcdef';
    private const LIST = 'shop_database_queues:laravel_out';

    private Laravel $laravel;

    protected function setUp(): void
    {
        parent::setUp();
        $redis = ['client' => 'phpredis', 'options' => ['prefix' => 'shop_database_'], 'default' => ['host' => Services::shared()->socket, 'port' => 0]];
        $this->laravel = new Laravel([
            'database' => ['redis' => $redis],
            'websocket' => ['queue_name' => 'laravel', 'secret' => self::SECRET],
        ]);
        Broadcast::routes(['middleware' => []]);
        Broadcast::channel('orders.{order}', static fn ($user, $order) => $user->id === (int) $order);
        Broadcast::channel('rooms.{room}', static fn ($user, $room) => $room === 'closed' ? null : ['id' => $user->id, 'name' => $user->name]);
        Broadcast::channel('staff', static fn ($user) => true, ['guards' => ['admin']]);
    }

    protected function tearDown(): void
    {
        Services::shared()->redis()->del(self::LIST);
        $this->laravel->end();
        parent::tearDown();
    }

    public function testAPrivateChannelIsSigned(): void
    {
        $response = $this->laravel->post('/broadcasting/auth', ['channel_name' => 'private-orders.7', 'socket_id' => 'n1.abc'], ['X-User' => '7']);
        self::assertSame(200, $response->getStatusCode(), (string) $response->getContent());
        $answer = json_decode((string) $response->getContent(), true);
        self::assertSame(['auth'], array_keys($answer));
        [$expires, $signature] = explode(':', $answer['auth']);
        self::assertEqualsWithDelta(time() + 300, (int) $expires, 5);
        self::assertSame(hash_hmac('sha256', "n1.abc:private-orders.7:$expires", self::SECRET), $signature);
    }

    public function testAPresenceChannelSaysWhoItIs(): void
    {
        $response = $this->laravel->post('/broadcasting/auth', ['channel_name' => 'presence-rooms.1', 'socket_id' => 'n1.abc'], ['X-User' => '7']);
        $answer = json_decode((string) $response->getContent(), true);
        self::assertSame('{"user_id":7,"user_info":{"id":7,"name":"Zoë"}}', $answer['channel_data']);
        [$expires, $signature] = explode(':', $answer['auth']);
        self::assertSame(hash_hmac('sha256', "n1.abc:presence-rooms.1:$expires:{$answer['channel_data']}", self::SECRET), $signature);
    }

    /** @dataProvider refusals */
    public function testWhoMayNotIsRefused(mixed $channel, mixed $socket, array $headers): void
    {
        $response = $this->laravel->post('/broadcasting/auth', ['channel_name' => $channel, 'socket_id' => $socket], $headers);
        self::assertSame(403, $response->getStatusCode(), (string) $response->getContent());
        self::assertStringNotContainsString('auth"', (string) $response->getContent());
    }

    /** @return iterable<string, array{mixed, mixed, array<string, string>}> */
    public static function refusals(): iterable
    {
        $seven = ['X-User' => '7'];
        yield 'nobody' => ['private-orders.7', 'c', []];
        yield 'another user' => ['private-orders.7', 'c', ['X-User' => '8']];
        yield 'no such channel' => ['private-nothing', 'c', $seven];
        yield 'callback says null' => ['presence-rooms.closed', 'c', $seven];
        yield 'another guard' => ['private-staff', 'c', $seven];
        yield 'public' => ['orders.7', 'c', $seven];
        yield 'encrypted' => ['private-encrypted-orders.7', 'c', $seven];
        yield 'a name that is none' => ['private-orders.7:x', 'c', $seven];
        yield 'no channel' => [null, 'c', $seven];
        yield 'a list of channels' => [['private-orders.7'], 'c', $seven];
        yield 'no socket' => ['private-orders.7', null, $seven];
        yield 'empty socket' => ['private-orders.7', '', $seven];
        yield 'a list of sockets' => ['private-orders.7', ['c'], $seven];
        yield 'socket with a control character' => ['private-orders.7', "a\nb", $seven];
        yield 'socket that is too long' => ['private-orders.7', str_repeat('x', 201), $seven];
    }

    public function testAChannelsGuardDecides(): void
    {
        $response = $this->laravel->post('/broadcasting/auth', ['channel_name' => 'private-staff', 'socket_id' => 'c'], ['X-Admin' => '1']);
        self::assertSame(200, $response->getStatusCode());
    }

    public function testAnEventBecomesOneFrameForEachChannel(): void
    {
        event(new Shipped([new Channel('news'), new PrivateChannel('orders.7'), new PresenceChannel('rooms.1'), 'plain']));
        $data = static fn (string $channel) => [
            'to' => ['group' => "channel:$channel"],
            'action' => 'broadcast',
            'data' => ['channel' => $channel, 'event' => Shipped::class, 'data' => ['order' => 7, 'place' => 'Zürich']],
        ];
        self::assertSame(array_map($data, ['news', 'private-orders.7', 'presence-rooms.1', 'plain']), self::items());
    }

    public function testToOthersLeavesTheSenderOut(): void
    {
        $this->laravel->app->instance('request', Request::create('/', 'POST', [], [], [], ['HTTP_X_SOCKET_ID' => 'n1.abc']));
        broadcast(new Shipped(['news']))->toOthers();
        self::assertSame(['except' => 'n1.abc', 'group' => 'channel:news'], self::items()[0]['to']);
    }

    public function testAHeaderThatIsNoIdKeepsNothingBack(): void
    {
        Broadcast::connection()->broadcast(['news'], 'ended', ['socket' => "\xff"]); // as of ShouldBroadcastNow
        self::assertSame(['group' => 'channel:news'], self::items()[0]['to']);
    }

    public function testAnEventWithoutDataHasAnObject(): void
    {
        Broadcast::connection()->broadcast(['news'], 'ended');
        Broadcast::connection()->broadcast(['news'], 'ended', ['socket' => null]);
        Broadcast::connection()->broadcast([], 'ended');
        $items = Services::shared()->redis()->lRange(self::LIST, 0, -1);
        self::assertCount(2, $items);
        foreach ($items as $item) {
            self::assertStringContainsString('"data":{"channel":"news","event":"ended","data":{}}', $item);
        }
    }

    public function testWhatCantBeBroadcastIsRefusedWhole(): void
    {
        $bad = ['place' => "Z\xfcrich"];
        self::refused(Unencodable::class, static fn () => Broadcast::connection()->broadcast(['news', 'more'], 'e', $bad), 'data.data.place', 'UTF-8');
        try {
            event(new Shipped(['news', new EncryptedPrivateChannel('orders.7')]));
            self::fail('an encrypted channel must not be sent to in the clear');
        } catch (BroadcastException $error) {
            self::assertStringContainsString('Encrypted', $error->getMessage());
        }
        self::assertSame([], self::items());
    }

    public function testWithoutASecretOnlyPrivateChannelsAreTold(): void
    {
        config(['websocket.secret' => null]);
        Broadcast::purge();
        Broadcast::channel('orders.{order}', static fn () => true);
        event(new Shipped(['news']));
        self::assertCount(1, self::items());
        $request = Request::create('/', 'POST', ['channel_name' => 'private-orders.7', 'socket_id' => 'c']);
        $request->setUserResolver(static fn () => new \Illuminate\Auth\GenericUser(['id' => 7]));
        self::refused(NotConfigured::class, static fn () => Broadcast::auth($request), 'WEBSOCKET_SECRET');
    }

    public function testAConnectionsOwnSecretComesFirst(): void
    {
        $own = str_repeat('o', 32);
        config(['broadcasting.connections.plugsocket.secret' => $own]);
        Broadcast::purge();
        Broadcast::channel('orders.{order}', static fn () => true);
        $request = Request::create('/', 'POST', ['channel_name' => 'private-orders.7', 'socket_id' => 'c']);
        $request->setUserResolver(static fn () => new \Illuminate\Auth\GenericUser(['id' => 7]));
        [$expires, $signature] = explode(':', Broadcast::auth($request)['auth']);
        self::assertSame(hash_hmac('sha256', "c:private-orders.7:$expires", $own), $signature);
    }

    /** @return list<array<string, mixed>> What stands in the list, without its time; nobody serves this one. */
    private static function items(): array
    {
        return array_map(static function (string $item): array {
            $item = json_decode($item, true, 512, JSON_THROW_ON_ERROR);
            self::assertSame(['time'], array_keys($item['meta']));
            unset($item['meta']);

            return $item;
        }, Services::shared()->redis()->lRange(self::LIST, 0, -1));
    }
}
