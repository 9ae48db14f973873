<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Integration;

use Plugsocket\Exception\Unencodable;
use Plugsocket\HttpApi;
use Plugsocket\Tests\Support\Client;
use Plugsocket\Tests\Support\Services;
use Plugsocket\Tests\Support\TestCase;
use Plugsocket\Websocket;

/** Messages from PHP to clients of two servers, by each way. */
final class SendTest extends TestCase
{
    /** @var list<Client> */
    private array $clients = [];

    protected function tearDown(): void
    {
        foreach ($this->clients as $client) {
            $client->close();
        }
        parent::tearDown();
    }

    /** @return iterable<string, array{string}> */
    public static function ways(): iterable
    {
        return [['phpredis'], ['predis'], ['callback'], ['http']];
    }

    private static function way(string $way): Websocket
    {
        $services = Services::shared();

        return match ($way) {
            'phpredis' => Websocket::redis($services->redis()),
            'predis' => Websocket::redis($services->predis(), 'plugsocket'),
            'callback' => Websocket::redis(static fn () => $services->redis(), 'plugsocket', new HttpApi($services->apis[0])),
            'http' => Websocket::http($services->apis[0] . '/'),
        };
    }

    private function client(int $server, string $nickname, int|string|null $user = null, ?string $room = null): Client
    {
        $client = new Client(Services::shared()->urls[$server], $nickname, $user);
        $this->clients[] = $client;
        if ($room !== null) {
            $client->request('join', ['room' => $room]);
        }

        return $client;
    }

    /** @dataProvider ways */
    public function testEachAddressReachesWhomItNamesOnEveryServerOnce(string $way): void
    {
        $room = "room $way/é";
        $one = $this->client(0, 'one', 7, $room);
        $two = $this->client(1, 'two', 7);
        $three = $this->client(1, 'three', 'a{b}', $room);
        $websocket = self::way($way);
        $websocket->to($three->connectionId)->send('note', 'to three');
        $websocket->toUser(7)->send('note', 'to user 7');
        $websocket->toUser('a{b}')->send('note', 'to user a{b}');
        $websocket->toGroup("room:$room")->send('note', 'to the room');
        $websocket->toGroup("room:$room")->except($one->connectionId)->send('note', 'to the others');
        $websocket->to($one->connectionId)->toUser(7)->toGroup("room:$room")->send('note', 'to all three');
        $websocket->all()->send('note', 'to all');
        $websocket->except($two->connectionId)->broadcast('note', 'but two');
        $websocket->toUser(8)->send('note', 'to nobody');
        $websocket->broadcast('end');
        $room = ['to the room', 'to the others'];
        self::assertSame(['to user 7', 'to the room', 'to all three', 'to all', 'but two'], $one->upTo('end', 'note'));
        self::assertSame(['to user 7', 'to all three', 'to all'], $two->upTo('end', 'note'));
        self::assertSame(['to three', 'to user a{b}', ...$room, 'to all three', 'to all', 'but two'], $three->upTo('end', 'note'));
    }

    /** @dataProvider ways */
    public function testDataArrivesAsItIs(string $way): void
    {
        $client = $this->client(0, 'data');
        $all = [
            'empty list' => [], 'empty object' => (object) [], 'null' => null, 'float' => 0.1, 'big' => PHP_INT_MAX, 'zero' => 0,
            'text' => "Zoë \"quoted\" back\\slash /slash\n\u{2028}\u{1F600}", 'nested' => [['a' => [1, [2]]]], 'true' => true, '' => 'no name',
        ];
        $websocket = self::way($way)->to($client->connectionId);
        foreach ([$all, [], (object) [], null, 'text', 7, false, [1, 2]] as $data) {
            $websocket->send('data', $data);
            $frame = json_decode($client->nextText('data'), false, 512, JSON_THROW_ON_ERROR);
            self::assertSame(json_encode($data), json_encode($frame->data));
        }
        $large = str_repeat('é', 400_000);
        $websocket->send('large', $large);
        self::assertSame($large, $client->next('large')['data']);
    }

    /** @dataProvider ways */
    public function testTheDeepestThatIsTakenArrives(string $way): void
    {
        $client = $this->client(0, 'deep');
        $deep = 'the end';
        for ($level = 0; $level < 511; $level++) {
            $deep = [$deep];
        }
        $websocket = self::way($way)->to($client->connectionId);
        $websocket->send('deep', $deep);
        self::refused(Unencodable::class, static fn () => $websocket->send('deep', [$deep]), '511 levels');
        self::assertStringContainsString('"the end"', $client->nextText('deep'));
    }

    public function testTheItemHasTheShapeOfThePhpPackage(): void
    {
        $redis = Services::shared()->redis();
        Websocket::redis($redis, 'elsewhere')->toUser(7)->except('c')->send('chat_text', ['text' => 'a/ë']);
        Websocket::redis($redis, 'elsewhere')->broadcast('chat_text', []);
        $items = $redis->lRange('queues:elsewhere_out', 0, -1);
        $redis->del('queues:elsewhere_out');
        self::assertMatchesRegularExpression('~^{"to":{"user_id":7,"except":"c"},"action":"chat_text","data":{"text":"a/ë"},"meta":{"time":\d{10}}}$~', $items[0]);
        self::assertMatchesRegularExpression('~^{"to":{"broadcast":true},"action":"chat_text","data":\[\],"meta":{"time":\d{10}}}$~', $items[1]);
    }

    public function testSeveralMessagesArriveInTheOrderInWhichTheyWereSent(): void
    {
        $client = $this->client(1, 'several', null, 'several');
        foreach (['phpredis', 'predis', 'http'] as $way) {
            self::way($way)->sendToGroups('several', ['room:several' => "$way 1", 'room:nowhere' => 'lost']);
            self::way($way)->toGroup('room:several')->send('several', "$way 2");
            self::way($way)->broadcast('end');
            self::assertSame(["$way 1", "$way 2"], $client->upTo('end', 'several'));
        }
    }

    public function testQuestionsAreAnsweredForAllServers(): void
    {
        $websocket = self::way('callback');
        self::waitUntil(static fn () => $websocket->online() === 0, 'the clients of the tests before to be gone');
        $one = $this->client(0, 'asked', 'a/b é?', 'asked/é');
        $two = $this->client(1, 'asked', 'a/b é?', 'asked/é');
        self::assertSame(2, $websocket->online());
        $expected = ['connection_id' => $one->connectionId, 'user_id' => 'a/b é?', 'node' => explode('.', $one->connectionId)[0], 'groups' => ['room:asked/é']];
        self::assertEquals($expected, $websocket->connection($one->connectionId));
        self::assertNull($websocket->connection('nobody'));
        self::assertEqualsCanonicalizing([$one->connectionId, $two->connectionId], array_column($websocket->connectionsOf('a/b é?'), 'connection_id'));
        self::assertEqualsCanonicalizing([$one->connectionId, $two->connectionId], array_column($websocket->members('room:asked/é'), 'connection_id'));
        self::assertSame([], $websocket->members('room:nowhere'));
        self::assertTrue($websocket->isOnline('a/b é?'));
        self::assertFalse($websocket->isOnline(4_711));
    }
}
