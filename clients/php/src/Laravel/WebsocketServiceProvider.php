<?php

declare(strict_types=1);

namespace Plugsocket\Laravel;

use Illuminate\Broadcasting\BroadcastManager;
use Illuminate\Container\Container;
use Illuminate\Support\ServiceProvider;
use Plugsocket\ChannelAuth;
use Plugsocket\Exception\NotConfigured;
use Plugsocket\HttpApi;
use Plugsocket\Transport\Limit;
use Plugsocket\Websocket;

/** `websocket()` by config/websocket.php, and the broadcasting driver `plugsocket`. */
final class WebsocketServiceProvider extends ServiceProvider
{
    private const CONFIG = __DIR__ . '/../../config/websocket.php';

    public function register(): void
    {
        $this->mergeConfigFrom(self::CONFIG, 'websocket');
        $this->app->singleton(Websocket::class, static fn ($app) => self::websocket($app, $app['config']->get('websocket')));
        // The container of the moment: under Octane each request has its own.
        Websocket::useDefault(static fn () => Container::getInstance()->make(Websocket::class));
    }

    public function boot(): void
    {
        if ($this->app->runningInConsole()) {
            $this->publishes([self::CONFIG => $this->app->configPath('websocket.php')], ['plugsocket', 'websocket-config']);
        }
        $this->callAfterResolving(BroadcastManager::class, static function (BroadcastManager $manager): void {
            $manager->extend('plugsocket', static fn ($app, array $config) => new PlugsocketBroadcaster(
                static fn () => $app->make(Websocket::class),
                static fn () => new ChannelAuth((string) ($config['secret'] ?? $app['config']->get('websocket.secret') ?? '')),
            ));
        });
    }

    /**
     * @param Container $app
     * @param array<string, mixed> $config
     *
     * @throws NotConfigured
     */
    private static function websocket(mixed $app, array $config): Websocket
    {
        $limit = (int) ($config['limit'] ?? Limit::DEFAULT);
        $flat = match ($config['protocol'] ?? 'envelope') {
            'envelope' => false,
            'flat' => true,
            default => throw new NotConfigured('`protocol` in config/websocket.php must be "envelope" or "flat", as `server.protocol` in the plugsocket.toml of the server.'),
        };
        $url = (string) ($config['url'] ?? '');
        $token = ($config['token'] ?? '') === '' ? null : (string) $config['token'];
        $api = $url === '' ? null : new HttpApi($url, $token, (float) ($config['timeout'] ?? 5));
        switch ($config['transport'] ?? 'redis') {
            case 'redis':
                $connection = $config['connection'] ?? null;
                $redis = static fn () => $app->make('redis')->connection($connection);

                return Websocket::redis($redis, (string) ($config['queue_name'] ?? ''), $api, $limit, $flat);
            case 'http':
                return Websocket::http($url, $token, (float) ($config['timeout'] ?? 5), $limit, $flat);
            default:
                throw new NotConfigured('`transport` in config/websocket.php (WEBSOCKET_TRANSPORT) must be "redis" or "http".');
        }
    }
}
