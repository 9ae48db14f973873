<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Unit;

use Plugsocket\ChannelAuth;
use Plugsocket\Exception\InvalidAddress;
use Plugsocket\Exception\NotConfigured;
use Plugsocket\Exception\TooLarge;
use Plugsocket\Exception\Unencodable;
use Plugsocket\Tests\Support\TestCase;

/** Signatures as the plugin `channels` verifies them; the expected ones were made with another implementation of HMAC. */
final class ChannelAuthTest extends TestCase
{
    private const SECRET = '0123456789abcdef0123456789abcdef';

    public function testAPrivateChannel(): void
    {
        self::assertSame(
            ['auth' => '1700000300:aed3d4368341023b94ee3cd4e0bb37bd36ff9329c6d099884698f20c448e1886'],
            (new ChannelAuth(self::SECRET))->private('n1.abc', 'private-orders.1', 1_700_000_000),
        );
    }

    public function testAPresenceChannel(): void
    {
        self::assertSame(
            ['auth' => '1700000300:2dc3363e58d2ef65d71e057a64b837e138ef3515f77c207fec3f5f36844c6865', 'channel_data' => '{"user_id":7,"user_info":{"name":"Zoë/x"}}'],
            (new ChannelAuth(self::SECRET))->presence('n1.abc', 'presence-room.1', 7, ['name' => 'Zoë/x'], 1_700_000_000),
        );
    }

    public function testThePresentIsTheDefault(): void
    {
        [$expires] = explode(':', (new ChannelAuth(self::SECRET))->private('c', 'private-a')['auth']);
        self::assertEqualsWithDelta(time() + 300, (int) $expires, 2);
    }

    public function testWhatCantBeUsedIsRefused(): void
    {
        self::refused(NotConfigured::class, static fn () => new ChannelAuth(''), 'WEBSOCKET_SECRET', 'it has 0');
        self::refused(NotConfigured::class, static fn () => new ChannelAuth(substr(self::SECRET, 17)), '16 bytes', 'it has 15');
        $auth = new ChannelAuth(self::SECRET);
        self::refused(Unencodable::class, static fn () => $auth->presence('c', 'presence-a', 7, ['name' => "\xff"]), 'channel_data.user_info.name');
        $large = ['text' => str_repeat('x', 4_096)];
        self::refused(TooLarge::class, static fn () => $auth->presence('c', 'presence-a', 7, $large), '4,096', 'routes/channels.php');
        self::assertSame('channel:' . str_repeat('x', 164), ChannelAuth::group(str_repeat('x', 164)));
        self::assertSame('channel:Überweisung.1', ChannelAuth::group('Überweisung.1'));
        foreach ([str_repeat('x', 165), '', 'a:b', 'a b', "a\n", "a\u{a0}b", "a\u{85}", "\xff"] as $bad) {
            self::refused(InvalidAddress::class, static fn () => ChannelAuth::group($bad), '164 bytes');
            self::refused(InvalidAddress::class, static fn () => $auth->private('c', $bad));
            self::refused(InvalidAddress::class, static fn () => $auth->presence('c', $bad, 7, null));
        }
    }
}
