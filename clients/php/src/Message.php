<?php

declare(strict_types=1);

namespace Plugsocket;

/** One message on its way: checked, its data encoded. */
final class Message
{
    /**
     * @param array{connection_id?: int|string, user_id?: int|string, group?: string, all?: true, except?: int|string} $to
     * @param string $data JSON.
     */
    public function __construct(public readonly array $to, public readonly string $action, public readonly string $data)
    {
    }

    /**
     * The message as a JSON object whose last members are these.
     *
     * @param array<string, mixed> $to The address as the one that reads it knows it.
     * @param string $more JSON members that follow, with their comma.
     */
    public function json(array $to, string $more = ''): string
    {
        $to = Json::encode($to, 'to');
        $action = Json::encode($this->action, 'action');

        return "{\"to\":$to,\"action\":$action,\"data\":{$this->data}$more}";
    }
}
