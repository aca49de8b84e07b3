"""The objects of the closed world, one a line under their kind.

Columns: name, material, place, colour, size, weight, use (the rest of the line, after "used for").
"""

from __future__ import annotations

TABLE = """
tool
    hammer      steel    garage   grey    small  heavy  driving nails
    saw         steel    shed     silver  small  light  cutting boards
    drill       steel    garage   yellow  small  heavy  boring holes
    shovel      steel    shed     brown   large  heavy  digging ditches
    rake        wood     garden   green   large  light  gathering leaves
    axe         steel    shed     red     large  heavy  chopping logs
    ladder      wood     garage   white   huge   heavy  climbing walls
    chisel      steel    studio   grey    tiny   light  carving statues
    mallet      rubber   garage   black   small  light  flattening tiles
    anvil       steel    cellar   black   large  heavy  shaping horseshoes
    broom       wood     hall     orange  large  light  sweeping floors
utensil
    spoon       steel    kitchen  silver  tiny   light  stirring soup
    fork        steel    kitchen  silver  tiny   light  picking noodles
    ladle       steel    kitchen  grey    small  light  serving stew
    spatula     rubber   kitchen  red     small  light  turning pancakes
    whisk       steel    kitchen  white   small  light  beating eggs
    grater      steel    kitchen  silver  small  light  shredding cheese
    pan         steel    kitchen  black   small  heavy  frying fish
    kettle      steel    kitchen  blue    small  heavy  boiling water
    mortar      stone    kitchen  grey    small  heavy  crushing spices
    colander    plastic  kitchen  green   small  light  draining pasta
    skewer      wood     garden   brown   tiny   light  roasting meat
container
    jar         glass    cellar   orange  small  light  storing jam
    bottle      glass    cellar   green   small  light  keeping wine
    barrel      wood     cellar   brown   large  heavy  ageing cider
    bucket      plastic  shed     blue    small  light  carrying sand
    basket      wood     hall     yellow  small  light  collecting mushrooms
    crate       wood     garage   brown   large  heavy  shipping apples
    suitcase    leather  attic    red     large  heavy  packing clothes
    purse       leather  bedroom  pink    tiny   light  holding coins
    backpack    cotton   school   purple  small  light  bringing lunch
    pitcher     clay     kitchen  white   small  heavy  pouring milk
    trunk       wood     attic    black   large  heavy  hiding treasure
vehicle
    truck       steel    street   red     huge   heavy  moving furniture
    bus         steel    street   yellow  huge   heavy  taking tourists
    bicycle     steel    garage   blue    large  light  riding trails
    canoe       wood     harbour  green   huge   heavy  crossing lakes
    raft        rubber   harbour  orange  large  light  floating downstream
    tractor     steel    barn     green   huge   heavy  ploughing fields
    wagon       wood     barn     red     huge   heavy  hauling hay
    scooter     plastic  street   pink    small  light  rolling downhill
    ferry       steel    harbour  white   huge   heavy  transporting cars
    tram        steel    street   purple  huge   heavy  reaching downtown
    sled        wood     shed     brown   large  light  gliding over snow
instrument
    violin      wood     studio   brown   small  light  playing waltzes
    trumpet     brass    studio   yellow  small  light  sounding fanfares
    piano       wood     hall     black   huge   heavy  playing sonatas
    drum        leather  school   red     large  heavy  beating rhythms
    flute       wood     school   white   tiny   light  playing melodies
    guitar      wood     bedroom  orange  large  light  strumming songs
    cello       wood     studio   brown   large  heavy  playing suites
    tuba        brass    school   silver  large  heavy  marching music
    gong        brass    hall     yellow  large  heavy  announcing dinner
    whistle     plastic  office   green   tiny   light  stopping games
    bugle       brass    attic    yellow  small  light  waking soldiers
toy
    doll        cotton   nursery  pink    small  light  acting stories
    puppet      wool     nursery  purple  small  light  giving shows
    kite        paper    garden   red     large  light  catching wind
    marble      glass    school   blue    tiny   light  shooting circles
    balloon     rubber   nursery  orange  small  light  decorating parties
    robot       plastic  bedroom  silver  small  heavy  fighting monsters
    puzzle      paper    attic    white   small  light  passing evenings
    block       wood     nursery  green   tiny   light  building towers
    yoyo        plastic  school   yellow  tiny   light  learning tricks
    rattle      wood     nursery  blue    tiny   light  calming babies
    swing       rubber   garden   black   large  heavy  soaring high
garment
    shirt       cotton   bedroom  white   small  light  looking neat
    sweater     wool     bedroom  green   small  light  staying warm
    coat        wool     hall     black   large  heavy  braving winter
    boot        leather  hall     brown   small  heavy  wading mud
    glove       leather  hall     grey    tiny   light  protecting fingers
    scarf       wool     hall     purple  small  light  covering necks
    sock        cotton   bedroom  blue    tiny   light  warming feet
    apron       cotton   kitchen  yellow  small  light  avoiding stains
    belt        leather  bedroom  black   small  light  fixing trousers
    sandal      rubber   garden   orange  small  light  walking beaches
    gown        cotton   bedroom  pink    large  light  attending balls
furnishing
    chair       wood     office   red     large  heavy  sitting upright
    table       wood     kitchen  brown   large  heavy  sharing meals
    sofa        leather  hall     grey    huge   heavy  relaxing together
    bed         wood     bedroom  white   huge   heavy  sleeping well
    desk        wood     office   black   huge   heavy  doing homework
    stool       plastic  kitchen  orange  small  light  reaching cupboards
    bench       stone    garden   grey    huge   heavy  watching birds
    shelf       wood     office   green   large  heavy  displaying trophies
    cradle      wood     nursery  yellow  large  heavy  rocking infants
    wardrobe    wood     bedroom  purple  huge   heavy  hanging dresses
    mirror      glass    bathroom silver  large  heavy  checking hair
device
    phone       glass    office   black   tiny   light  calling friends
    camera      plastic  studio   grey    small  light  taking pictures
    radio       plastic  kitchen  red     small  light  hearing news
    lamp        brass    bedroom  yellow  small  light  reading late
    printer     plastic  office   white   large  heavy  copying pages
    toaster     steel    kitchen  orange  small  heavy  browning bread
    fan         plastic  office   blue    small  light  cooling rooms
    clock       brass    hall     brown   small  heavy  telling time
    thermometer glass    bathroom pink    tiny   light  measuring fever
    scale       steel    bathroom purple  small  heavy  weighing people
    torch       steel    cellar   green   tiny   light  exploring caves
ornament
    vase        clay     hall     blue    small  heavy  arranging roses
    statue      stone    garden   white   huge   heavy  honouring heroes
    ring        brass    bedroom  yellow  tiny   light  promising love
    bead        glass    studio   purple  tiny   light  making necklaces
    medal       brass    office   orange  tiny   light  rewarding winners
    fountain    stone    garden   grey    huge   heavy  delighting guests
    lantern     paper    garden   red     small  light  lighting paths
    wreath      wood     hall     green   small  light  greeting visitors
    figurine    clay     attic    pink    tiny   light  remembering trips
    crown       brass    studio   silver  small  heavy  crowning kings
    candle      wax      bathroom brown   tiny   light  creating moods
covering
    blanket     wool     bedroom  brown   large  heavy  comforting children
    carpet      wool     office   red     huge   heavy  softening steps
    curtain     cotton   bathroom blue    large  light  blocking sunshine
    tent        cotton   attic    green   huge   heavy  camping outdoors
    towel       cotton   bathroom white   small  light  drying hands
    tarp        plastic  barn     orange  huge   heavy  shielding crops
    quilt       cotton   nursery  purple  large  heavy  dreaming sweetly
    umbrella    plastic  hall     black   small  light  escaping rain
    roof        clay     street   grey    huge   heavy  sheltering families
    napkin      paper    kitchen  pink    tiny   light  wiping mouths
    sail        cotton   harbour  yellow  huge   heavy  steering boats
fastener
    nail        steel    garage   grey    tiny   light  joining planks
    screw       steel    garage   silver  tiny   light  mounting hinges
    rope        cotton   harbour  brown   large  heavy  tying ships
    chain       steel    harbour  black   large  heavy  anchoring buoys
    button      plastic  bedroom  red     tiny   light  closing jackets
    hook        brass    bathroom white   tiny   light  hanging robes
    ribbon      cotton   studio   pink    tiny   light  wrapping gifts
    strap       leather  barn     orange  small  light  saddling horses
    stapler     plastic  office   blue    small  heavy  binding reports
    hinge       brass    cellar   yellow  tiny   light  opening gates
    peg         wood     garden   green   tiny   light  drying laundry
document
    book        paper    school   blue    small  heavy  studying history
    map         paper    school   green   large  light  finding roads
    ticket      paper    street   yellow  tiny   light  boarding trains
    letter      paper    office   white   tiny   light  sending greetings
    newspaper   paper    hall     grey    small  light  following politics
    diary       leather  bedroom  purple  small  light  recording secrets
    poster      paper    studio   orange  large  light  advertising concerts
    stamp       paper    attic    red     tiny   light  mailing parcels
    menu        paper    kitchen  black   small  light  ordering desserts
    calendar    paper    cellar   pink    small  light  planning holidays
    receipt     paper    barn     brown   tiny   light  proving payment
"""

ABILITIES: dict[str, tuple[str, str]] = {
    "wood": ("burn", "float"),
    "steel": ("rust", "shine"),
    "glass": ("shatter", "shine"),
    "plastic": ("melt", "float"),
    "cotton": ("burn", "tear"),
    "wool": ("burn", "stretch"),
    "leather": ("bend", "stretch"),
    "paper": ("burn", "tear"),
    "clay": ("shatter", "crack"),
    "rubber": ("bend", "stretch"),
    "brass": ("bend", "shine"),
    "stone": ("sink", "crack"),
    "wax": ("melt", "crack"),
}
"""What the things made of a material can do: the regularities of the world."""
