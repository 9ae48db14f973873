<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Unit;

use Plugsocket\Exception\InvalidAction;
use Plugsocket\Exception\InvalidAddress;
use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\TooLarge;
use Plugsocket\Exception\Unencodable;
use Plugsocket\Exception\WebsocketException;
use Plugsocket\HttpApi;
use Plugsocket\Tests\Support\TestCase;
use Plugsocket\Transport\RecordingTransport;
use Plugsocket\Websocket;

/** Addresses, and what is refused before anything is sent. */
final class WebsocketTest extends TestCase
{
    private RecordingTransport $recording;
    private Websocket $websocket;

    protected function setUp(): void
    {
        parent::setUp();
        $this->recording = new RecordingTransport();
        $this->websocket = new Websocket($this->recording);
    }

    protected function tearDown(): void
    {
        Websocket::useDefault(null);
        parent::tearDown();
    }

    public function testEachAddressIsKeptInItsOwnType(): void
    {
        $this->websocket->to('n.1')->send('a', 1);
        $this->websocket->to(5)->send('a');
        $this->websocket->toUser(7)->send('a');
        $this->websocket->toUser('7')->send('a');
        $this->websocket->toUser(0)->send('a');
        $this->websocket->toGroup('room:é')->send('a');
        $this->websocket->all()->send('a');
        $this->websocket->broadcast('a', ['x' => true]);
        $this->websocket->except('n.1')->broadcast('a');
        $this->websocket->to('n.1')->toUser(7)->toGroup('g')->except('n.2')->send('a');
        self::assertSame([
            ['connection_id' => 'n.1'], ['connection_id' => 5], ['user_id' => 7], ['user_id' => '7'], ['user_id' => 0], ['group' => 'room:é'],
            ['all' => true], ['all' => true], ['except' => 'n.1', 'all' => true],
            ['connection_id' => 'n.1', 'user_id' => 7, 'group' => 'g', 'except' => 'n.2'],
        ], array_column($this->recording->sent(), 'to'));
        self::assertSame([1, null], array_slice(array_column($this->recording->sent(), 'data'), 0, 2));
    }

    public function testNoAddressIsLeftOverFromTheMessageBefore(): void
    {
        $toSeven = $this->websocket->toUser(7);
        $toSeven->send('a');
        $toSeven->except('c')->send('a');
        $toSeven->broadcast('b');
        $toSeven->send('c');
        self::assertSame(
            [['user_id' => 7], ['user_id' => 7, 'except' => 'c'], ['user_id' => 7, 'all' => true], ['user_id' => 7]],
            array_column($this->recording->sent(), 'to'),
        );
        self::refused(InvalidAddress::class, fn () => $this->websocket->send('a'), 'addressed to nobody', 'toUser($userId)');
        self::refused(InvalidAddress::class, fn () => $this->websocket->except('c')->send('a'), 'addressed to nobody');
    }

    public function testWhatIsNoAddressIsRefused(): void
    {
        self::refused(InvalidAddress::class, fn () => $this->websocket->to(''), 'to()', 'empty');
        self::refused(InvalidAddress::class, fn () => $this->websocket->toUser("\xff"), 'toUser()', 'UTF-8');
        self::refused(InvalidAddress::class, fn () => $this->websocket->toGroup(''), 'toGroup()');
        self::refused(InvalidAddress::class, fn () => $this->websocket->except(''), 'except()');
        self::refused(InvalidAddress::class, fn () => $this->websocket->toUser(7)->toUser(8), '`user_id`', '"7"', '"8"', 'group');
        self::refused(InvalidAddress::class, fn () => $this->websocket->to('a')->to('b'), '`connection_id`');
        $this->websocket->toUser(7)->toUser('7')->all()->all()->send('a');
        self::assertCount(1, $this->recording->sent());
    }

    public function testActionsAreChecked(): void
    {
        $send = fn (string $action) => fn () => $this->websocket->all()->send($action, 1);
        self::refused(InvalidAction::class, $send(''), '1 to 128 bytes');
        self::refused(InvalidAction::class, $send(str_repeat('é', 65)), '130 bytes');
        self::refused(InvalidAction::class, $send("a\n"), 'control characters', 'a\n');
        self::refused(InvalidAction::class, $send("a\u{85}"), 'control characters');
        self::refused(InvalidAction::class, $send("\xff"), 'UTF-8');
        foreach (['register', 'registered', 'accepted', 'error', 'ping', 'pong', 'resume', 'draining', 'expiring'] as $own) {
            self::refused(InvalidAction::class, $send($own), "\"$own\"", "server's own");
        }
        self::assertSame([], $this->recording->sent());
        $this->websocket->all()->send(str_repeat('é', 64));
        $flat = new Websocket($this->recording, flat: true);
        $flat->all()->send('ping');
        $flat->all()->send('error');
        self::refused(InvalidAction::class, static fn () => $flat->all()->send('register'), "server's own");
        self::assertSame([str_repeat('é', 64), 'ping', 'error'], array_column($this->recording->sent(), 'action'));
    }

    public function testNothingIsSentToSeveralGroupsWhenOneMessageIsBad(): void
    {
        self::refused(Unencodable::class, fn () => $this->websocket->sendToGroups('a', ['g' => 1, 'h' => ['x' => NAN]]), 'data.x');
        self::assertSame([], $this->recording->sent());
        $this->websocket->sendToGroups('a', ['g' => 1, '7' => 2]);
        self::assertSame([['group' => 'g'], ['group' => '7']], array_column($this->recording->sent(), 'to'));
    }

    public function testWhatIsTooLargeOrUnencodableNeverReachesRedis(): void
    {
        $reached = 0;
        $redis = static function () use (&$reached): never {
            $reached++;
            throw new \LogicException('asked for');
        };
        $websocket = Websocket::redis($redis, 'app', limit: 200);
        self::refused(TooLarge::class, static fn () => $websocket->all()->send('a', str_repeat('x', 200)), 'limit is 200', 'item_max');
        self::refused(Unencodable::class, static fn () => $websocket->all()->send('a', "\xff"));
        self::assertSame(0, $reached);
        $default = Websocket::redis($redis);
        self::refused(TooLarge::class, static fn () => $default->all()->send('a', str_repeat('x', 1_048_576)), 'limit is 1,048,576');
        $http = Websocket::http('http://127.0.0.1:1');
        self::refused(TooLarge::class, static fn () => $http->all()->send('a', str_repeat('x', 1_048_576)), 'ops.body_max');
        self::assertSame(0, $reached);
    }

    public function testTheHelperNeedsADefault(): void
    {
        $error = self::refused(NotConfigured::class, static fn () => websocket(), 'Websocket::useDefault');
        self::assertInstanceOf(WebsocketException::class, $error);
        Websocket::useDefault($this->websocket);
        self::assertSame($this->websocket, websocket());
        self::assertSame($this->websocket, \Plugsocket\websocket());
        Websocket::useDefault(fn () => $this->websocket);
        websocket()->toUser(7)->send('chat_text', ['text' => 'hi']);
        self::assertSame('hi', $this->recording->sent()[0]['data']['text']);
    }

    public function testSettingsThatCantWorkAreRefused(): void
    {
        self::refused(NotConfigured::class, fn () => $this->websocket->online(), 'over HTTP', 'url');
        self::refused(NotConfigured::class, static fn () => Websocket::redis(new \Redis(), ''), '`queue_name`');
        self::refused(NotConfigured::class, static fn () => Websocket::redis(new \stdClass(), 'app'), '\Redis', 'stdClass');
        self::refused(NotConfigured::class, static fn () => Websocket::redis(static fn () => 7, 'app')->all()->send('a'), 'int');
        foreach (['', '127.0.0.1:8001', 'ftp://x', 'http://', "http://x/\r\nA: b", 'http://x?y=1', 'http://x:99999'] as $url) {
            self::refused(NotConfigured::class, static fn () => new HttpApi($url), 'http://127.0.0.1:8001');
        }
        $error = self::refused(NotConfigured::class, static fn () => new HttpApi('http://user:secret@x'));
        self::assertStringNotContainsString('secret', $error->getMessage());
        foreach (['', "a\r\nX: y", 'a b'] as $token) {
            self::refused(NotConfigured::class, static fn () => new HttpApi('http://x', $token), 'token');
        }
        self::refused(NotConfigured::class, static fn () => new HttpApi('http://x', null, 0.0), 'timeout');
    }
}
