<?php

declare(strict_types=1);

namespace Plugsocket\Exception;

/** The data has something in it that JSON can't say; the text names where it is. Nothing was sent. */
final class Unencodable extends WebsocketException
{
}
