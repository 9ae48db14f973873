<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Laravel;

use Illuminate\Broadcasting\InteractsWithSockets;
use Illuminate\Contracts\Broadcasting\ShouldBroadcast;

/** An event as applications write them. */
final class Shipped implements ShouldBroadcast
{
    use InteractsWithSockets;

    /** @param list<\Illuminate\Broadcasting\Channel|string> $channels */
    public function __construct(private array $channels, public int $order = 7, public string $place = 'Zürich')
    {
    }

    /** @return list<\Illuminate\Broadcasting\Channel|string> */
    public function broadcastOn(): array
    {
        return $this->channels;
    }
}
