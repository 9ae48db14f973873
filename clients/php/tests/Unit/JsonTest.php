<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Unit;

use Plugsocket\Exception\Unencodable;
use Plugsocket\Json;
use Plugsocket\Tests\Support\TestCase;

enum Suit
{
    case Hearts;
}

enum Size: string
{
    case Small = 's';
}

/** What can be said in JSON is; what can't is refused, and the text says where it is. */
final class JsonTest extends TestCase
{
    public function testValuesAreEncodedAsTheyAre(): void
    {
        $cases = [
            [null, 'null'],
            [[], '[]'],
            [(object) [], '{}'],
            [new \stdClass(), '{}'],
            [['a' => [], 'b' => (object) []], '{"a":[],"b":{}}'],
            [[1 => 'a'], '{"1":"a"}'],
            ['é/"\\' . "\u{2028}\n", '"é/\"\\\\\u2028\n"'],
            [0.1, '0.1'],
            [PHP_INT_MAX, '9223372036854775807'],
            [Size::Small, '"s"'],
            [new \ArrayObject(['x' => 1]), '{"x":1}'],
            [['x' => new class () implements \JsonSerializable {
                public function jsonSerialize(): mixed
                {
                    return [1];
                }
            }], '{"x":[1]}'],
        ];
        foreach ($cases as [$value, $json]) {
            self::assertSame($json, Json::encode($value, 'data'));
        }
    }

    /** @dataProvider unencodable */
    public function testTheTextSaysWhereItIs(mixed $value, string ...$words): void
    {
        self::refused(Unencodable::class, static fn () => Json::encode($value, 'data'), ...$words);
    }

    public function testWhatIsNestedTooDeepIsToldShortly(): void
    {
        $deep = [];
        for ($level = 0; $level < 600; $level++) {
            $deep = [$deep];
        }
        $error = self::refused(Unencodable::class, static fn () => Json::encode($deep, 'data'), 'data[0][0]', '…', '511');
        self::assertLessThan(200, strlen($error->getMessage()));
    }

    /** @return iterable<string, list<mixed>> */
    public static function unencodable(): iterable
    {
        $loop = new \stdClass();
        $loop->orders = [1, new \stdClass()];
        $loop->orders[1]->customer = $loop;
        $recursive = ['x' => 1];
        $recursive['self'] = &$recursive;
        $twice = [];
        $twice['a'] = &$twice;
        $twice['b'] = &$twice;
        $closed = fopen('php://memory', 'r');
        fclose($closed);
        yield 'top' => ["\xff", "data can't be sent: it is not UTF-8", 'base64_encode'];
        yield 'Latin-1' => [['user' => ['name' => "Zo\xeb"]], "data.user.name can't be sent: it is not UTF-8"];
        yield 'in a list' => [['rows' => [1, 2, ['a b' => "\xc3\x28"]]], 'data.rows[2]["a b"]'];
        yield 'surrogate' => [["\xed\xa0\x80"], 'data[0]'];
        yield 'key' => [['a' => ["\xffkey" => 1]], "data.a can't be sent: it has a key that is not UTF-8 (ff6b6579"];
        yield 'NAN' => [['sum' => NAN], 'data.sum', 'NAN', 'null instead'];
        yield 'INF' => [[1, -INF], 'data[1]', '-INF'];
        yield 'resource' => [['file' => STDIN], 'data.file', 'resource'];
        yield 'closed resource' => [['file' => $closed], 'data.file', 'resource'];
        yield 'objects in a circle' => [['order' => $loop], "data.order.orders[1].customer can't be sent: it has itself in it. Send the ids"];
        yield 'array in itself' => [$recursive, 'data.self.self', 'has itself in it'];
        yield 'array in itself twice' => [$twice, 'data.a.a', '…', 'has itself in it'];
        yield 'enum' => [['suit' => Suit::Hearts], 'data.suit', 'enum'];
        yield 'from jsonSerialize' => [['o' => new class () implements \JsonSerializable {
            public function jsonSerialize(): mixed
            {
                return ['n' => NAN];
            }
        }], 'data.o.n', 'NAN'];
        yield 'jsonSerialize fails' => [['o' => new class () implements \JsonSerializable {
            public function jsonSerialize(): mixed
            {
                throw new \LogicException('no such row');
            }
        }], 'data', 'no such row'];
    }
}
