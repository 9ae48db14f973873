<?php

declare(strict_types=1);

namespace Plugsocket\Transport;

use Plugsocket\Message;

/** Sends nothing and keeps everything: for the tests of an application. */
final class RecordingTransport implements Transport
{
    /** @var list<Message> */
    private array $messages = [];

    public function send(Message ...$messages): void
    {
        array_push($this->messages, ...array_values($messages));
    }

    /**
     * What was sent so far, oldest first, the data as it would arrive.
     *
     * @return list<array{to: array<string, mixed>, action: string, data: mixed}>
     */
    public function sent(): array
    {
        return array_map(
            static fn (Message $message) => [
                'to' => $message->to,
                'action' => $message->action,
                'data' => json_decode($message->data, true, 512, JSON_THROW_ON_ERROR),
            ],
            $this->messages,
        );
    }
}
