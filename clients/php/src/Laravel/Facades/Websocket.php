<?php

declare(strict_types=1);

namespace Plugsocket\Laravel\Facades;

use Illuminate\Support\Facades\Facade;

/**
 * @method static \Plugsocket\Websocket to(int|string $connectionId)
 * @method static \Plugsocket\Websocket toUser(int|string $userId)
 * @method static \Plugsocket\Websocket toGroup(string $name)
 * @method static \Plugsocket\Websocket all()
 * @method static \Plugsocket\Websocket except(int|string $connectionId)
 * @method static void broadcast(string $action, mixed $data = null)
 * @method static array|null connection(int|string $id)
 * @method static array connectionsOf(int|string $userId)
 * @method static array members(string $group)
 * @method static int online()
 * @method static bool isOnline(int|string $userId)
 */
final class Websocket extends Facade
{
    protected static function getFacadeAccessor(): string
    {
        return \Plugsocket\Websocket::class;
    }
}
