<?php

declare(strict_types=1);

namespace Plugsocket\Transport;

use Plugsocket\HttpApi;
use Plugsocket\Message;

/** Posts messages to the server's HTTP API. */
final class HttpTransport implements Transport
{
    /** @param int $limit Most bytes of a message. */
    public function __construct(private readonly HttpApi $api, private readonly int $limit = Limit::DEFAULT)
    {
    }

    public function send(Message ...$messages): void
    {
        $bodies = array_map($this->body(...), array_values($messages));
        foreach ($bodies as $body) {
            $this->api->post('/v1/send', $body);
        }
    }

    private function body(Message $message): string
    {
        $body = $message->json($message->to);
        Limit::check($body, $this->limit, 'ops.body_max');

        return $body;
    }
}
