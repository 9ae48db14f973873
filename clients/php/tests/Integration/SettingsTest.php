<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Integration;

use Plugsocket\Exception\Refused;
use Plugsocket\Exception\Unreachable;
use Plugsocket\Tests\Support\Client;
use Plugsocket\Tests\Support\Services;
use Plugsocket\Tests\Support\TestCase;
use Plugsocket\Websocket;

/** Prefixes, serializers, tokens, and limits of the server: what people set, in PHP and at the server. */
final class SettingsTest extends TestCase
{
    private static Services $services;

    public static function setUpBeforeClass(): void
    {
        self::$services = new Services();
        self::$services->server(['app' => 'shop', 'php.prefix' => 'laravel_database_', 'ops.token' => 's3cret/+=', 'ops.body_max' => '4KiB']);
    }

    public static function tearDownAfterClass(): void
    {
        self::$services->end();
    }

    public function testThePrefixOfTheClientIsTheServers(): void
    {
        $client = new Client(self::$services->urls[0], 'prefix', 7);
        $phpredis = self::$services->redis();
        $phpredis->setOption(\Redis::OPT_PREFIX, 'laravel_database_');
        Websocket::redis($phpredis, 'shop')->toUser(7)->send('note', 'phpredis');
        self::assertSame('phpredis', $client->next('note')['data']);
        Websocket::redis(self::$services->predis('laravel_database_'), 'shop')->toUser(7)->send('note', 'predis');
        self::assertSame('predis', $client->next('note')['data']);
        $client->close();
    }

    public function testSerializerAndCompressionOfTheClientLeaveTheItemAlone(): void
    {
        $client = new Client(self::$services->urls[0], 'serializer', 8);
        foreach ([\Redis::SERIALIZER_PHP, \Redis::SERIALIZER_JSON, \Redis::SERIALIZER_IGBINARY] as $serializer) {
            $redis = self::$services->redis();
            $redis->setOption(\Redis::OPT_PREFIX, 'laravel_database_');
            $redis->setOption(\Redis::OPT_SERIALIZER, $serializer);
            Websocket::redis($redis, 'shop')->toUser(8)->send('note', ['serializer' => $serializer]);
            self::assertSame(['serializer' => $serializer], $client->next('note')['data']);
            self::assertSame($serializer, $redis->getOption(\Redis::OPT_SERIALIZER));
        }
        $client->close();
    }

    public function testASendInATransactionOfTheClientIsPartOfIt(): void
    {
        $client = new Client(self::$services->urls[0], 'transaction', 9);
        $redis = self::$services->redis();
        $redis->setOption(\Redis::OPT_PREFIX, 'laravel_database_');
        $redis->multi();
        Websocket::redis($redis, 'shop')->toUser(9)->send('note', 'in it');
        self::assertSame(0, self::$services->redis()->exists('laravel_database_queues:shop_out'));
        $redis->exec();
        self::assertSame('in it', $client->next('note')['data']);
        $client->close();
    }

    public function testTheTokenIsAskedFor(): void
    {
        $api = self::$services->apis[0];
        $client = new Client(self::$services->urls[0], 'token', 10);
        $websocket = Websocket::http($api, 's3cret/+=');
        $websocket->toUser(10)->send('note', 1);
        self::assertSame(1, $client->next('note')['data']);
        self::assertTrue($websocket->isOnline(10));
        $error = self::refused(Refused::class, static fn () => Websocket::http($api)->online(), 'unauthorized', 'ops.token', $api);
        self::assertSame([401, 'unauthorized'], [$error->status, $error->errorCode]);
        $error = self::refused(Refused::class, static fn () => Websocket::http($api, 'wrong')->toUser(10)->send('note'), 'unauthorized');
        self::assertStringNotContainsString('wrong', $error->getMessage());
        $client->close();
    }

    public function testTheServersOwnLimitIsARefusal(): void
    {
        $websocket = Websocket::http(self::$services->apis[0], 's3cret/+=');
        $error = self::refused(Refused::class, static fn () => $websocket->all()->send('note', str_repeat('x', 5_000)));
        self::assertSame(413, $error->status);
        $error = self::refused(Refused::class, static fn () => $websocket->all()->send('note', str_repeat('x', 1_000_000)));
        self::assertSame(413, $error->status);
        $flat = Websocket::http(self::$services->apis[0], 's3cret/+=', flat: true);
        $error = self::refused(Refused::class, static fn () => $flat->all()->send('ping'), 'bad_request', 'system action');
        self::assertSame(400, $error->status);
    }

    public function testAKeyOfAnotherTypeIsNamed(): void
    {
        self::$services->redis()->set('queues:broken_out', 'text');
        foreach ([self::$services->redis(), self::$services->predis()] as $redis) {
            self::refused(Unreachable::class, static fn () => Websocket::redis($redis, 'broken')->all()->send('a'), 'WRONGTYPE', '`queue_name`');
        }
        $quiet = new \Predis\Client(['scheme' => 'unix', 'path' => self::$services->socket], ['exceptions' => false]);
        self::refused(Unreachable::class, static fn () => Websocket::redis($quiet, 'broken')->all()->send('a'), 'WRONGTYPE');
    }

    public function testAFullRedisSaysSo(): void
    {
        $redis = self::$services->redis();
        $redis->config('SET', 'maxmemory', '1');
        try {
            self::refused(Unreachable::class, static fn () => Websocket::redis($redis, 'shop')->all()->send('a'), 'OOM', 'Redis is full');
        } finally {
            $redis->config('SET', 'maxmemory', '0');
        }
    }
}
