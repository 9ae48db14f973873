<?php

declare(strict_types=1);

namespace Plugsocket\Laravel;

use Closure;
use Illuminate\Broadcasting\BroadcastException;
use Illuminate\Broadcasting\Broadcasters\Broadcaster;
use Illuminate\Broadcasting\Broadcasters\UsePusherChannelConventions;
use Illuminate\Support\Arr;
use Plugsocket\ChannelAuth;
use Plugsocket\Exception\InvalidAddress;
use Plugsocket\Exception\WebsocketException;
use Plugsocket\Websocket;
use Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException;

/** The broadcasting driver `plugsocket`: a channel is a group, an event one frame `broadcast` to it. */
final class PlugsocketBroadcaster extends Broadcaster
{
    use UsePusherChannelConventions;

    private const ACTION = 'broadcast';
    private const ENCRYPTED = 'private-encrypted-';
    private const CONNECTION_ID_CHARS_MAX = 200;

    /**
     * @param Closure(): Websocket $websocket
     * @param Closure(): ChannelAuth $auth Asked for when a channel that needs it is subscribed to.
     */
    public function __construct(private readonly Closure $websocket, private readonly Closure $auth)
    {
    }

    /**
     * Whether the user may subscribe, as the channel's callback says.
     *
     * @param \Illuminate\Http\Request $request With `channel_name`, and `socket_id`: the `connection_id` that the client was given.
     * @return mixed
     *
     * @throws AccessDeniedHttpException
     */
    public function auth($request)
    {
        [$channel, $socket] = [$request->channel_name, $request->socket_id];
        if (! is_string($channel) || ! $this->isGuardedChannel($channel)) {
            throw new AccessDeniedHttpException('Only channels named private-… and presence-… need to be authorized.');
        }
        $this->refuseEncrypted($channel, AccessDeniedHttpException::class);
        try {
            ChannelAuth::group($channel);
        } catch (InvalidAddress $error) {
            throw new AccessDeniedHttpException($error->getMessage(), $error);
        }
        if (! is_string($socket) || preg_match('/^\P{Cc}{1,' . self::CONNECTION_ID_CHARS_MAX . '}$/uD', $socket) !== 1) {
            throw new AccessDeniedHttpException('`socket_id` must be the connection_id that the client got when it registered.');
        }
        $name = $this->normalizeChannelName($channel);
        if (! $this->retrieveUser($request, $name)) {
            throw new AccessDeniedHttpException();
        }

        return $this->verifyUserCanAccessChannel($request, $name);
    }

    /**
     * What the client subscribes with.
     *
     * @param \Illuminate\Http\Request $request
     * @param mixed $result What the channel's callback gave.
     * @return array{auth: string, channel_data?: string}
     */
    public function validAuthenticationResponse($request, $result)
    {
        [$channel, $socket] = [$request->channel_name, $request->socket_id];
        $auth = ($this->auth)();
        if (! str_starts_with($channel, 'presence-')) {
            return $auth->private($socket, $channel);
        }
        $user = $this->retrieveUser($request, $this->normalizeChannelName($channel));
        $id = method_exists($user, 'getAuthIdentifierForBroadcasting') ? $user->getAuthIdentifierForBroadcasting() : $user->getAuthIdentifier();

        return $auth->presence($socket, $channel, is_int($id) ? $id : (string) $id, $result);
    }

    /**
     * Sends an event to the subscribers of channels, but for the connection `$payload['socket']`.
     *
     * @param array<mixed> $channels
     * @param string $event
     * @param array<string, mixed> $payload
     * @return void
     *
     * @throws BroadcastException|WebsocketException
     */
    public function broadcast(array $channels, $event, array $payload = [])
    {
        $socket = Arr::pull($payload, 'socket');
        $data = [];
        foreach ($this->formatChannels($channels) as $channel) {
            $this->refuseEncrypted($channel, BroadcastException::class);
            // An event's data has names, also when there is none of it.
            $data[ChannelAuth::group($channel)] = ['channel' => $channel, 'event' => $event, 'data' => $payload ?: (object) []];
        }
        $websocket = ($this->websocket)();
        // It is what the browser's header said; what is no id is nobody's, and must not keep the event from the others.
        if (is_string($socket) && $socket !== '' && preg_match('//u', $socket) === 1) {
            $websocket = $websocket->except($socket);
        }
        $websocket->sendToGroups(self::ACTION, $data);
    }

    /** @param class-string<\Exception> $error */
    private function refuseEncrypted(string $channel, string $error): void
    {
        if (str_starts_with($channel, self::ENCRYPTED)) {
            throw new $error('Encrypted channels are not served: the server would see their events. Use a private channel, and wss://.');
        }
    }
}
